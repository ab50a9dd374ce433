"""Learning from the model before a change."""

from torch import Tensor
from torch.nn import functional


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher || student) of [N, classes] logits, mean over the batch.

    Hinton, Vinyals and Dean 2015: T softens both, and T^2 keeps the gradient's size as T grows.
    No gradient flows into the teacher.
    """
    divergence = functional.kl_div(
        functional.log_softmax(logits / temperature, dim=1),
        functional.log_softmax(teacher_logits.detach() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * temperature**2
