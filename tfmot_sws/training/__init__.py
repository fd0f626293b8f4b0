"""From a pretrained model to a clustered one: wrapping, the training step, annealing, strip.

Owns tau, targets, schedules and the wrapper of Keras 3 models. Imports `prior`,
`models`, `coding`, `backend`.
"""
