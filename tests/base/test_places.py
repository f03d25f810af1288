"""Each kind of tensor and of module keeps its state, whatever a block does to it."""

import pytest
import torch
from torch import nn
from trainings import undone

from nbkit.base.state import digest, preserve_state

# --- tensors ---

TENSORS = {
    "a number": lambda: torch.tensor(1.0),
    "slice": lambda: torch.arange(6.0)[1:5:2],
    "transposed": lambda: torch.arange(6.0).view(2, 3).t(),
    "channels last": lambda: torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "expanded": lambda: torch.arange(3.0)[:, None].expand(3, 4),
    "overlapping windows": lambda: torch.arange(6.0).unfold(0, 3, 1),
    "conjugated": lambda: torch.complex(torch.ones(2), torch.ones(2)).conj(),
    "float8": lambda: torch.ones(2).to(torch.float8_e4m3fn),
    "leaf": lambda: torch.ones(2, requires_grad=True),
    "result of autograd": lambda: torch.ones(2, requires_grad=True) * 2,
    "view of a leaf": lambda: torch.ones(3, requires_grad=True)[1:],
}


@pytest.mark.parametrize("kind", TENSORS)
def test_a_tensor_of_any_kind_gets_its_bytes_back(kind):
    tensor = TENSORS[kind]()
    before = tensor.tolist()
    undone([tensor], lambda t: t.data.untyped_storage().fill_(64))
    assert tensor.tolist() == before


def test_an_expanded_tensor_costs_no_more_than_its_memory():
    exabytes = torch.zeros(1).expand(1 << 60)
    undone([exabytes], lambda t: t[:1].fill_(1))
    assert exabytes[-1] == 0


def test_an_inference_tensor_is_restored():
    with torch.inference_mode():
        layer = nn.Linear(2, 2)
    undone([layer], lambda layer: setattr(layer.weight, "data", torch.zeros(2, 2)))


def test_under_inference_mode_ordinary_tensors_stay_ordinary():
    layer = nn.Linear(2, 2)
    with torch.inference_mode():
        undone([layer], lambda layer: layer.weight.data.zero_())
    layer(torch.ones(1, 2)).sum().backward()
    assert not layer.weight.is_inference()


def test_the_neighbours_of_a_slice_are_left_alone():
    whole = torch.zeros(4)
    with preserve_state(whole[1:3]):
        whole.fill_(1)
    assert whole.tolist() == [1, 0, 0, 1]


def test_a_storage_that_the_block_freed_or_grew_has_its_size_again():
    freed, grown = torch.ones(4), torch.ones(4)
    with preserve_state(freed, grown):
        freed.untyped_storage().resize_(0)
        grown.resize_(1000).zero_()
    for tensor in (freed, grown):
        assert tensor.untyped_storage().nbytes() == 16
        assert tensor.tolist() == [1, 1, 1, 1]


def test_a_freed_tensor_is_refused():
    tensor = torch.ones(2)
    tensor.untyped_storage().resize_(0)
    with pytest.raises(TypeError, match="Tensor cannot be put back: it has no memory on cpu"):
        digest(tensor)


def test_a_sparse_grad_is_the_same_object_with_the_same_values():
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1, 1, 3])).sum().backward()
    grad, dense = table.weight.grad, table.weight.grad.to_dense()

    def change(table):
        table.zero_grad(set_to_none=False)
        table(torch.tensor([2])).sum().backward()

    undone([table], change)
    assert table.weight.grad is grad
    assert torch.equal(grad.to_dense(), dense)
    undone([table], lambda table: table.weight.grad._values().fill_(7))
    assert torch.equal(grad.to_dense(), dense)


def test_a_graph_from_before_the_block_still_gives_its_gradient():
    weight = torch.ones(2, requires_grad=True)
    loss = weight.square().sum()
    with preserve_state(weight):
        weight.data.add_(3)
    loss.backward()
    assert weight.grad.tolist() == [2, 2]


# --- modules ---


def test_hooks_stay():
    seen = []
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda *_: seen.append("forward"))
    layer.weight.register_hook(lambda grad: seen.append("grad"))
    layer.weight.register_post_accumulate_grad_hook(lambda p: seen.append("accumulated"))
    undone([layer], lambda layer: layer.double())
    layer(torch.ones(1, 2)).sum().backward()
    assert seen == ["forward", "grad", "accumulated"]


@pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")  # Python 3.13.0
def test_a_compiled_model_is_restored_and_not_compiled_again():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    compiled = torch.compile(model, backend=backend)
    batch = torch.randn(4, 2)
    compiled(batch)
    once = len(graphs)
    undone([compiled], lambda compiled: compiled(batch).sum().backward())
    undone([compiled], lambda compiled: model[1].eval())
    compiled(batch)
    assert len(graphs) == once


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_model_is_restored():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    undone([scripted], lambda scripted: scripted(torch.randn(4, 2)).sum().backward())
    undone([scripted], lambda scripted: scripted.eval())


def test_a_model_in_ddp_is_restored(tmp_path):
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(nn.Linear(2, 2), gradient_as_bucket_view=True)
        for _ in range(3):
            undone([model], lambda model: model(torch.ones(1, 2)).sum().backward())
        model(torch.ones(1, 2)).sum().backward()
        assert model.module.weight.grad.tolist() == [[1, 1], [1, 1]]
    finally:
        torch.distributed.destroy_process_group()


def test_an_lstm_computes_with_the_weights_that_came_back():
    lstm, x = nn.LSTM(2, 3), torch.ones(1, 1, 2)
    before = lstm(x)[0]
    undone([lstm], lambda lstm: setattr(lstm, "weight_ih_l0", nn.Parameter(torch.zeros(12, 2))))
    assert torch.equal(lstm(x)[0], before)


def test_lists_and_dicts_of_parameters_keep_their_length():
    one, two = nn.ParameterList([torch.ones(1)]), nn.ParameterDict({"a": torch.ones(1)})
    undone([one], lambda one: one.append(torch.ones(2)))
    undone([two], lambda two: two.update({"b": torch.ones(2)}))
    assert len(list(one)) == len(list(two.values())) == 1


def test_a_plain_attribute_does_not_hide_the_parameter():
    layer = nn.Linear(2, 2)
    weight = layer.weight

    def change(layer):
        del layer.weight
        layer.weight = torch.zeros(2, 2)

    undone([layer], change)
    assert layer.weight is weight


def test_extra_state_is_restored():
    class Counter(nn.Module):
        seen: tuple = ()

        def get_extra_state(self):
            return {"seen": self.seen}

        def set_extra_state(self, state):
            self.seen = state["seen"]

    counter = Counter()
    undone([counter], lambda counter: setattr(counter, "seen", (1, 2)))
    assert counter.seen == ()
