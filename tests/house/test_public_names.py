"""The public surface: a name comes or goes on purpose."""

import nbkit

TECHNIQUES = {
    "state": "digest preserve_state",
    "lr_finder": "LRCurve lr_range_test",
    "initialization": "InitReport Initialized LSUVReport init_report initialize_ lsuv_",
    "batchnorm": "BNReport bn_gap freeze_bn_ guard_bn reestimate_bn_ rescale_bn_momentum_",
    "clipping": "ClipHistory ClipReport clip_gradients_",
    "amp": "Amp Float64Use Float64Uses NonfiniteReport Skipped StepReport UnderflowReport "
    "find_float64 find_nonfinite underflow_report",
    "accumulation": "MicroBatch Window accumulate check_accumulation",
    "ddp": "LaunchError RankFailure all_mean check_ddp_equivalence is_main launch rank shard "
    "world_size",
    "equivalence": "EquivalenceReport",
}


def test_the_public_names_are_these():
    names = [name for line in TECHNIQUES.values() for name in line.split()]
    assert nbkit.__all__ == sorted(names)


def test_each_says_what_it_is():
    assert [name for name in nbkit.__all__ if not getattr(nbkit, name).__doc__] == []
