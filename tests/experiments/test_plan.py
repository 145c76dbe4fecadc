import pytest

from hr_keras.experiments.plan import Plan, Run, plan_runs
from hr_keras.experiments.protocol import from_preset
from hr_keras.experiments.run_folder import RunFolder


def write(folder, *arguments, **changes):
    protocol = from_preset(*arguments, **changes)
    RunFolder.create(folder, protocol)
    return protocol


def test_a_run_folder_is_enough(tmp_path):
    protocol = write(tmp_path, "quick", alpha=2.0, epochs=4)
    assert plan_runs(tmp_path) == Plan(tmp_path, (Run(protocol, tmp_path),))
    grown = plan_runs(tmp_path, realizations=7).runs[0].protocol
    assert (grown.realizations, grown.alpha) == (7, 2.0)
    other = plan_runs(tmp_path, epochs=5).runs[0]
    with pytest.raises(ValueError, match="epochs=4 in it, 5 now"):
        RunFolder.create(other.path, other.protocol)
    asked = plan_runs(tmp_path, "paper-mnist").runs[0].protocol
    assert asked == from_preset("paper-mnist")


def test_several_data_sets_get_a_folder_each_in_the_order_of_the_paper(tmp_path):
    plan = plan_runs(tmp_path, "quick", ("fashion_mnist", "svhn_cropped", "mnist"), epochs=2)
    names = ["mnist", "svhn_cropped", "fashion_mnist"]
    assert [run.protocol.dataset for run in plan.runs] == names
    assert [run.path for run in plan.runs] == [tmp_path / name for name in names]
    for run in plan.runs:
        RunFolder.create(run.path, run.protocol)
    assert plan_runs(tmp_path) == plan
    assert plan_runs(None, None, ("mnist", "cifar10")).folder.name == "mnist_cifar10_quick"


def test_several_runs_of_one_data_set_are_no_table(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, "quick", dataset="mnist")
    with pytest.raises(ValueError, match=r"names that differ.*MNIST, MNIST\. Give one of .*a, .*b"):
        plan_runs(tmp_path)


def test_a_label_may_be_changed_and_is_never_dropped(tmp_path):
    write(tmp_path / "a", "quick")
    label = "MNIST, JPEG-recompressed"
    for changes in ({"data_label": label}, {}, {"preset": "quick"}):
        plan_runs(tmp_path / "a", **changes).create()
        assert RunFolder(tmp_path / "a").protocol.data_label == label
    plan_runs(tmp_path / "a", data_label="MNIST, rotated").create()
    assert plan_runs(tmp_path / "a").runs[0].protocol.data_label == "MNIST, rotated"
    write(tmp_path / "b", "quick", dataset="mnist")
    for planned in ((tmp_path,), (None, "quick", ("mnist", "cifar10"))):
        with pytest.raises(ValueError, match=f"names that differ.*{label}, {label}"):
            plan_runs(*planned, data_label=label)


def test_folders_that_hold_something_else_are_refused(tmp_path):
    write(tmp_path / "run", "quick")
    with pytest.raises(ValueError, match="run folder of one data set"):
        plan_runs(tmp_path / "run", None, ("mnist", "mnist10k"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds no run folders"):
        plan_runs(tmp_path / "other", None, ("mnist", "mnist10k"))
    with pytest.raises(ValueError, match="names that differ"):
        plan_runs(None, None, ("mnist", "mnist"))


def test_a_file_is_looked_into_again_where_it_is_still_there(tmp_path):
    path = tmp_path / "data.npz"
    path.write_bytes(b"one")
    before = write(tmp_path / "run", "quick", dataset=str(path))
    path.write_bytes(b"another")
    run = plan_runs(tmp_path / "run").runs[0]
    with pytest.raises(ValueError, match="dataset_sha256"):
        RunFolder.create(run.path, run.protocol)
    path.unlink()
    assert plan_runs(tmp_path / "run").runs[0].protocol == before
