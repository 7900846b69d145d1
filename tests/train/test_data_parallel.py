"""Parts of a batch leave the gradients of the whole; `test_distributed` has several processes."""

import pytest
import torch
import two_processes as two

from onerec.model.batch import Batch
from onerec.train.data_parallel import DataParallel
from onerec.train.distributed import Processes

CPU = torch.device("cpu")


@pytest.mark.parametrize("parts", [2, 4, 6])
def test_parts_of_a_batch_leave_the_gradients_of_the_whole(parts: int) -> None:
    """Alone: gradient accumulation."""
    expected, loss = two.reference("experts")
    model = two.new_model("experts")
    shared = DataParallel(Processes(micro_batches=parts), model, two.targets, Batch.split)
    found, values = shared.gradients(model.loss, two.batch(0), CPU)
    assert found == pytest.approx(float(loss), rel=1e-12)
    assert sum(map(float, values.values())) == pytest.approx(float(loss), rel=1e-12)
    gradients = two.whole_gradients(model)
    assert gradients.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(gradients[key], value, rtol=1e-9, atol=1e-12)


def test_clipping_is_by_the_norm_of_all_gradients() -> None:
    model = torch.nn.Linear(1, 2)
    shared = DataParallel(Processes(micro_batches=2), model, two.targets, Batch.split)
    model.weight.grad, model.bias.grad = torch.tensor([[3.0], [0.0]]), torch.tensor([0.0, 4.0])
    assert float(shared.clip(2.5)) == 5.0
    assert model.weight.grad.flatten().tolist() == pytest.approx([1.5, 0.0])
    assert model.bias.grad.tolist() == pytest.approx([0.0, 2.0])
