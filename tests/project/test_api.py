"""The Python API: the package's own example, run on a tiny task file."""

import shutil

import mingle_edge


def test_the_example_of_the_package_runs_as_it_is_written(task_file, image_model, tmp_path, monkeypatch, capsys):
    shutil.copytree(task_file.parent, tmp_path / "tasks")
    shutil.copytree(image_model.path, tmp_path / "tasks/merged")  # a finished merge does nothing again
    monkeypatch.chdir(tmp_path / "tasks")
    example = "\n".join(line[4:] for line in mingle_edge.__doc__.splitlines() if line.startswith("    "))
    assert "merge(" in example
    exec(example, {})
    names, figures = capsys.readouterr().out.splitlines()
    assert names == "['task0', 'task1', 'task2']"
    accuracy, transfer = map(float, figures.split())
    assert 0 < accuracy <= 100
    assert -100 <= transfer <= 100
