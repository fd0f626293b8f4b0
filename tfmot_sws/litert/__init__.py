"""Export to LiteRT (TFLite): conversion, one module a group of formats, and the check.

Owns everything about .tflite files. Imports `models`.
"""
