"""The public surface: a name comes or goes on purpose."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import nbkit

TECHNIQUES = {
    "state": "digest preserve_state",
    "lr_finder": "LRCurve StopReason lr_range_test",
    "initialization": "InitReport InitVerdict Initialized LSUVReport LSUVVerdict LossVerdict "
    "init_report initialize_ lsuv_",
    "batchnorm": "BNReport BNVerdict bn_gap freeze_bn_ guard_bn reestimate_bn_ "
    "rescale_bn_momentum_",
    "schedules": "Plateau PlateauVerdict Schedule Scheduled lr_schedule updates",
    "clipping": "ClipHistory ClipReport clip_gradients_",
    "amp": "Amp Float64Use Float64Uses NonfiniteReport PassPhase Skipped StepReport "
    "UnderflowReport find_float64 find_nonfinite underflow_report",
    "accumulation": "MicroBatch Window accumulate check_accumulation",
    "tuning": "AskedConfigs HalvingRung SearchRange TuneReport ask_configs sample_configs "
    "successive_halving",
    "ddp": "LaunchError RankFailure all_mean check_ddp_equivalence is_main launch rank shard "
    "world_size",
    "transfer": "LRGroups lr_groups",
    "optimizers": "Lamb MuonAdamW OptimizerReport describe_optimizer make_optimizer",
    "equivalence": "EquivalenceCause EquivalenceReport",
}


def test_the_public_names_are_these():
    names = [name for line in TECHNIQUES.values() for name in line.split()]
    assert nbkit.__all__ == sorted(names)


def test_each_says_what_it_is():
    assert [name for name in nbkit.__all__ if not getattr(nbkit, name).__doc__] == []


def names_for_type_checkers():
    """For each package, the names that nbkit/__init__.py imports under TYPE_CHECKING."""
    tree = ast.parse(Path(nbkit.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    return {node.module: sorted(alias.name for alias in node.names) for node in block.body}


def test_a_type_checker_sees_the_names_that_load_at_the_first_use():
    loaded = {package: sorted(names) for package, names in nbkit._PACKAGES.items()}
    assert names_for_type_checkers() == loaded
    names = [name for names in nbkit._PACKAGES.values() for name in names]
    assert sorted(names) == nbkit.__all__


@pytest.mark.parametrize("package", nbkit._PACKAGES)
def test_a_name_is_the_one_of_its_package(package):
    loaded = importlib.import_module(package)
    for name in nbkit._PACKAGES[package]:
        assert getattr(nbkit, name) is getattr(loaded, name)


def test_a_technique_is_loaded_when_it_is_first_used():
    code = (
        "import sys, torch, nbkit\n"
        "assert not [name for name in sys.modules if name.startswith('nbkit.')]\n"
        "assert set(nbkit.__all__) <= set(dir(nbkit))\n"
        "nbkit.clip_gradients_\n"
        "assert 'nbkit.clipping' in sys.modules and 'nbkit.ddp' not in sys.modules\n"
        "assert nbkit.ddp.launch is nbkit.launch\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'nbkit' has no attribute 'clip_gradient'"):
        _ = nbkit.clip_gradient
    assert not hasattr(nbkit, "clip_gradient")
