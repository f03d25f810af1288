"""A mistake in a claims file is answered with the file, the claim and what to write."""

import pytest

from nbkit.lab.evidence.register import load_claims

ENTRY = """\
[c]
lesson = "x"
sentence = "It helps."
source = "nobody"
metric = "a / b"
measure = "ratio"
side = "below"
margin = 0.95
n = 8
"""


def refuse(tmp_path, text):
    """What is said of a file with this text."""
    file = tmp_path / "own.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError) as error:
        load_claims("x", file)
    return str(error.value)


def test_the_entry_itself_is_right(tmp_path):
    (tmp_path / "own.toml").write_text(ENTRY + 'needs = ["cuda"]\nspread = 1\n')
    (claim,) = load_claims("x", tmp_path / "own.toml").values()
    assert (claim.measure, claim.side, claim.needs) == ("ratio", "below", ("cuda",))


def test_task_baseline_and_axis_are_read(tmp_path):
    more = 'task = "digits, 100 steps"\nbaseline = "no technique"\naxis = [0.5, 2]\n'
    more += 'n_elsewhere = 4\ngeneral = true\nbetter = "above"\n'
    (tmp_path / "own.toml").write_text(ENTRY + more)
    (claim,) = load_claims("x", tmp_path / "own.toml").values()
    assert (claim.task, claim.baseline) == ("digits, 100 steps", "no technique")
    assert (claim.axis, claim.n_elsewhere, claim.general) == ((0.5, 2), 4, True)
    assert (claim.side, claim.better_side) == ("below", "above")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("n = 8", "n = 8\naxis = [0.5]", "axis must be [low, high], two finite numbers, got [0.5]"),
        ("n = 8", "n = 8\naxis = [0.5, inf]", "axis must be [low, high], two finite numbers, got"),
        ("n = 8", "n = 8\nn_elsewhere = 4.0", "n_elsewhere must be a whole number, got 4.0"),
        ("n = 8", "n = 8\ngeneral = 1", "general must be true or false, got 1"),
        ("n = 8", "n = 8\ntask = 3", "task must be a text, got 3"),
        ("n = 8", 'n = "8"', "n must be a whole number, got '8'"),
        ("n = 8", "n = 8.0", "n must be a whole number, got 8.0"),
        ("n = 8", "n = true", "n must be a whole number, got True"),
        ("n = 8", "n = 0", "n must be at least 1, got 0"),
        ("0.95", '"0.95"', "margin must be a finite number, got '0.95'"),
        ("0.95", "nan", "margin must be a finite number, got nan"),
        ("0.95", "true", "margin must be a finite number, got True"),
        ("0.95", "[0.9]", "margin must be a finite number, got [0.9]"),
        ("0.95", "-1", "the margin of a ratio below it must lie between 0.0 and inf, got -1"),
        ('"It helps."', "3", "sentence must be a text, got 3"),
        ('"It helps."', '" "', "sentence must be a text, got ' '"),
        ("n = 8", 'n = 8\nneeds = "cuda"', 'list of texts, as in ["cuda"], got'),
        ("n = 8", "n = 8\nneeds = [1]", "needs must be a list of texts"),
        ("n = 8", 'n = 8\nneeds = ["luck"]', "needs must be among cuda"),
        ("n = 8", 'n = 8\nspread = "s"', "spread must be a finite number, got 's'"),
        ("n = 8", 'n = 8\ndeterministic = "yes"', "deterministic must be true or false"),
        ("n = 8", "n = 8\nrefuted = 1", "refuted must be a text, got 1"),
        ("n = 8", "n = 8\nmesure = 1", "wrong or missing: mesure (did you mean measure?)"),
        ("n = 8\n", "", "wrong or missing: n."),
        ('side = "below"\n', "", "side must be among below, above, within, got None"),
        ("[c]", '["<script>"]', "the id of a claim must be made of letters, digits"),
    ],
)
def test_a_wrong_field_is_named_with_its_file_and_claim(tmp_path, old, new, message):
    told = refuse(tmp_path, ENTRY.replace(old, new))
    assert "own.toml" in told and message in told
    assert ("<script>" if "<script>" in new else "c") in told.partition(message)[0]


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("ratio_below", 'write measure = "ratio" and side = "below"'),
        ("proportion_difference_above", 'measure = "proportion_difference" and side = "above"'),
        ("equivalent", 'write measure = "difference" and side = "within"'),
        ("exact", 'write measure = "equality".'),
        ("better", 'for instance, measure = "ratio" and side = "below"'),
    ],
)
def test_the_old_field_is_answered_with_what_to_write_now(tmp_path, kind, written):
    old = ENTRY.replace('measure = "ratio"\nside = "below"', f'kind = "{kind}"')
    told = refuse(tmp_path, old)
    assert told.startswith("own.toml, [c]: the field kind is called measure and side now: ")
    assert written in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENTRY.replace('"ratio"', "ratio"), "own.toml must be written in TOML and UTF-8: Inval"),
        (ENTRY + ENTRY, "own.toml must be written in TOML and UTF-8: Cannot declare"),
        (ENTRY.replace("nobody", "Müller").encode("latin-1"), "own.toml must be written in TOML"),
        ("n = 8\n" + ENTRY, "own.toml, [n]: expected a claim, [n] with its fields below it, got 8"),
    ],
)
def test_what_is_no_table_of_claims_is_named(tmp_path, text, message):
    assert message in refuse(tmp_path, text)


def test_a_file_that_is_not_there_is_said_to_be_looked_for_from_the_notebook(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file of claims .*own.toml in .*`--cwd`"):
        load_claims("x", tmp_path / "own.toml")
    with pytest.raises(ValueError, match="must be a file of claims: Is a directory"):
        load_claims("x", tmp_path)
