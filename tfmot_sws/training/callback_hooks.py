"""What makes one callback run in `fit` of Keras 3 and of tf_keras alike."""

from __future__ import annotations


class RunsInTfKeras:
    """Answers the questions that `fit` of tf_keras has for a callback and Keras 3 has not."""

    def _implements_train_batch_hooks(self) -> bool:
        return True

    def _implements_test_batch_hooks(self) -> bool:
        return False

    def _implements_predict_batch_hooks(self) -> bool:
        return False
