"""Task files: what is read, and that every mistake is named by file, table and key before anything is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_clip import write_task_file

from mingle_edge.core.errors import TaskFileError
from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.task_file import TASK_NAME, BackboneSource, TaskSource, read_task_file

BACKBONE = '[backbone]\nmodel = "ViT-B-32"\nweights = "openai"\n'


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with what the task files below name."""
    (tmp_path / "seeds" / "sea").mkdir(parents=True)
    (tmp_path / "test" / "sea").mkdir(parents=True)
    (tmp_path / "folder").mkdir()
    for name in ("sea.safetensors", "head.safetensors", "model.json"):
        (tmp_path / name).touch()
    (tmp_path / "classes.txt").write_text("\ufeffcalm sea\n\n  rough sea \r\n", encoding="utf-8")
    return tmp_path


def task(**changes: str | None) -> str:
    """A [[task]] table, with keys changed, added, or left out where None; values are TOML."""
    values: dict[str, str | None] = {"name": '"sea"', "weights": '"sea.safetensors"', "seeds": '"seeds/sea"'}
    values |= {"classes": '["calm", "rough"]'} | changes
    return "[[task]]\n" + "".join(f"{key} = {value}\n" for key, value in values.items() if value is not None)


def written(base: Path, content: str) -> Path:
    (base / "TASKS.toml").write_text(content, encoding="utf-8")
    return base / "TASKS.toml"


def refused(base: Path, content: str) -> str:
    path = written(base, content)
    with pytest.raises(TaskFileError) as error:
        read_task_file(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{path}").removeprefix(": ")


def test_everything(base: Path) -> None:
    second = task(
        name='"lake.2"',
        seeds='{files = "test/sea/<class>/*.png", share = [0, 0.5]}',
        seeds_per_class="3",
        classes='"classes.txt"',
        head='"head.safetensors"',
        test='"test/sea/<class>/*.png"',
        tune='{files = "tune-*.parquet", image = "img", label = "fine_label"}',
    )
    path = written(base, BACKBONE + "[settings]\nrank = 8\nscope = 'layer'\n" + task(templates='["a {}", "{}!"]') + second)
    file = read_task_file(path)
    assert file.path == path
    assert file.backbone == BackboneSource("ViT-B-32", "openai")
    assert file.settings == {"rank": 8, "scope": "layer"}
    assert file.tasks == [
        TaskSource("sea", "sea.safetensors", ImageSource("seeds/sea"), ["calm", "rough"], ["a {}", "{}!"], None, None),
        TaskSource(
            name="lake.2",
            weights="sea.safetensors",
            seeds=ImageSource("test/sea/<class>/*.png", share=(0.0, 0.5)),
            classes=["calm sea", "rough sea"],
            templates=[],
            head=base / "head.safetensors",
            test=ImageSource("test/sea/<class>/*.png"),
            tune=ImageSource("tune-*.parquet", image="img", label="fine_label"),
            seeds_per_class=3,
        ),
    ]


def test_defaults(base: Path) -> None:
    file = read_task_file(written(base, '[backbone]\nmodel = "folder"\n' + task()))
    assert file.backbone == BackboneSource("folder", None)
    assert file.settings == {}
    assert file.tasks[0].templates == ["a photo of a {}."]
    labelled = task(seeds='"test/sea/<class>/*.png"')
    assert [read_task_file(written(base, BACKBONE + t)).tasks[0].seeds_per_class for t in (task(), labelled)] == [None, 5]


def test_the_tiny_task_file_is_one(tmp_path: Path) -> None:
    file = read_task_file(write_task_file(tmp_path, tasks=2, rank=8, scope="image"))
    assert [task.name for task in file.tasks] == ["task0", "task1"]
    assert file.settings == {"rank": 8, "scope": "image"}


def test_absolute_paths(base: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    content = BACKBONE + task(weights=f"'{base}/sea.safetensors'", seeds=f"'{base}/seeds/sea'")
    assert read_task_file(written(elsewhere, content)).tasks[0].seeds == ImageSource(f"{base}/seeds/sea")


def test_names_on_the_hub_are_neither_looked_up_nor_taken_for_paths(base: Path) -> None:
    backbone = '[backbone]\nmodel = "hf://openai/clip-vit-base-patch32"\n'
    test = '"hf://datasets/o/n@refs/convert/parquet/test/*.parquet"'
    content = backbone + task(weights='"hf://o/n@v1/a.safetensors"', seeds='"hf://datasets/o/n/<class>/*.png"', test=test)
    file = read_task_file(written(base, content))
    assert file.backbone == BackboneSource("hf://openai/clip-vit-base-patch32", None)
    assert file.tasks[0].weights == "hf://o/n@v1/a.safetensors"
    assert (file.tasks[0].seeds.labeled, file.tasks[0].seeds_per_class) == (True, 5)
    assert file.tasks[0].test is not None
    assert file.tasks[0].test.kind == "parquet"


def test_folders_and_data_sets_are_read_by_splits(base: Path) -> None:
    """A key's usual split where there are several; seeds are taken whole where a folder is not divided."""
    (base / "set/Train/calm").mkdir(parents=True)
    (base / "set/val/calm").mkdir(parents=True)
    (base / "set/.cache").mkdir()

    def read(**keys: str) -> TaskSource:
        return read_task_file(written(base, BACKBONE + task(**keys))).tasks[0]

    assert read(seeds='"set"').seeds == ImageSource("set", usual_split="train")
    assert read(seeds='"set"').seeds_per_class == 5
    assert read(seeds='"set/Train"').seeds == ImageSource("set/Train")
    assert read(seeds='{files = "set", split = "val"}').seeds_per_class == 5
    assert read(seeds='"hf://datasets/o/n"').seeds == ImageSource("hf://datasets/o/n", usual_split="train")
    assert read(seeds='"hf://datasets/o/n/few"').seeds_per_class is None
    assert read(test='"set"').test == ImageSource("set", usual_split="test")
    given = '{files = "hf://datasets/o/n", split = "dev", config = "small", share = [0, 0.5]}'
    source = ImageSource("hf://datasets/o/n", share=(0.0, 0.5), split="dev", config="small", usual_split="validation")
    assert read(tune=given).tune == source
    (base / "set/bus").mkdir()  # then train is a class
    assert read(seeds='"set"').seeds_per_class is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "[[task]] 1 name is missing"),
        ({"name": "3"}, "[[task]] 1 name must be a string, not 3"),
        ({"name": '" "'}, "[[task]] 1 name is empty"),
        ({"name": '"../sea"'}, "[[task]] '../sea' name must be 1 to 64 letters"),
        ({"name": '"sea\\n"'}, "name must be 1 to 64 letters"),
        ({"name": f'"{"s" * 65}"'}, "name must be 1 to 64 letters"),
        ({"weights": None}, "[[task]] 'sea' weights is missing"),
        ({"weights": '"gone.pt"'}, "[[task]] 'sea' weights names"),
        ({"seeds": None}, "[[task]] 'sea' seeds is missing"),
        ({"seeds": '"seeds/lake"'}, "seeds/lake, which does not exist"),
        ({"seeds": '"model.json"'}, "which is no folder; put the images in one"),
        ({"classes": "[]"}, "classes holds no class; name at least one"),
        ({"classes": '["a", 3]'}, "classes holds 3, which is no class"),
        ({"classes": '["a", ""]'}, "classes holds '', which is no class"),
        ({"classes": '["a", "b", "a"]'}, "classes holds the class 'a' twice"),
        ({"classes": '"gone.txt"'}, "gone.txt, which does not exist"),
        ({"classes": '"folder"'}, "classes cannot be read as text"),
        ({"classes": '"model.json"'}, "classes holds no class"),
        ({"templates": '"a {}"'}, "templates must be a list, not 'a {}'"),
        ({"templates": '["a photo"]'}, "templates holds 'a photo' without {}"),
        ({"templates": "[]"}, "templates holds no template"),
        ({"templates": '["{}"]', "head": '"head.safetensors"'}, "templates cannot go with head"),
        ({"head": '"gone.safetensors"'}, "gone.safetensors, which does not exist"),
        ({"test": '"test/sea/*.png"'}, "which is no folder; a pattern of images needs one folder for each class: dir/<class>"),
        ({"test": '"test/gone"'}, "test/gone, which does not exist; correct the path"),
        ({"test": '"test.zip"'}, "which does not exist"),
        ({"test": '"gone.csv"'}, "test names"),
        ({"test": '{files = "a.parquet", split = "test"}'}, "test split is of a folder or data set, but files is 'a.parquet'"),
        ({"test": '{files = "test/sea/<class>/*.png", config = "a"}'}, "test config is of a folder or data set, but"),
        (
            {"seeds": '{files = "seeds/sea", label = "y"}'},
            "seeds label names a column, but files is 'seeds/sea', which has none",
        ),
        ({"test": '"test/sea/<class>"'}, "needs one folder <class> and then the files"),
        ({"test": '"tests/<class>/*.png"'}, "which is no folder; correct the path"),
        ({"tune": '"tests/<class>/*.png"'}, "[[task]] 'sea' tune looks for class folders in"),
        ({"weights": '"hf://owner"'}, "[[task]] 'sea' weights names nothing on the hub: 'hf://owner' is not of the form hf://"),
        ({"weights": '"hf://datasets/o/n/x.bin"'}, "the data set o/n, but must name a model"),
        ({"seeds": '"hf://o/n/seeds"'}, "seeds is 'hf://o/n/seeds', the model o/n, but must name a data set"),
        ({"test": '"hf://datasets/o/n/<class>"'}, "needs one folder <class> and then the files"),
        ({"test": "3"}, "test must be a string, not 3"),
        ({"test": '{file = "a.parquet"}'}, "[[task]] 'sea' test file is not a known key; did you mean files?"),
        ({"test": '{image = "img"}'}, "[[task]] 'sea' test files is missing"),
        ({"test": '{files = "a.parquet", label = 3}'}, "test label must be a string, not 3"),
        ({"test": '{files = "test/sea/<class>/*.png", label = "label"}'}, "test label names a column, but files is 'test/sea"),
        ({"test": '{files = "a.parquet", share = 0.5}'}, "test share must be a list, not 0.5"),
        ({"test": '{files = "a.parquet", share = [0.5]}'}, "test share is [0.5], but must be two numbers from 0 to 1"),
        ({"test": '{files = "a.parquet", share = [0.9, 0.1]}'}, "test share is [0.9, 0.1], but must be"),
        ({"test": '{files = "a.parquet", share = [false, true]}'}, "test share is [False, True], but must be"),
        ({"seeds": '{files = "seeds/sea", share = [0, 0.5]}'}, "seeds share is of every class, but files is 'seeds/sea'"),
        ({"seeds_per_class": "5"}, "seeds_per_class needs labeled seeds, but 'seeds/sea' is a folder whose images are all"),
        ({"seeds": '"a.parquet"', "seeds_per_class": "0"}, "seeds_per_class is 0, but must be at least 1"),
        ({"seeds": '"a.parquet"', "seeds_per_class": "true"}, "seeds_per_class must be a whole number, not True"),
        ({"seed": '"seeds/sea"'}, "[[task]] 'sea' seed is not a known key; did you mean seeds?"),
        ({"frobnicate": "1"}, "frobnicate is not a known key; the keys are name, weights, seeds"),
    ],
)
def test_task_refused(base: Path, changes: dict[str, str | None], message: str) -> None:
    assert message in refused(base, BACKBONE + task(**changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "backbone is missing; add it"),
        (BACKBONE, "task is missing; add it"),
        ("task = []\n" + BACKBONE, "task must be [[task]] tables"),
        ("task = [1]\n" + BACKBONE, "task must be [[task]] tables"),
        ("settings = 3\n" + BACKBONE + task(), "settings must be a table, not 3"),
        (BACKBONE + "[tasks]\n" + task(), "tasks is not a known key; did you mean task?"),
        ("[backbone]\n" + task(), "[backbone] model is missing"),
        ('[backbone]\nmodel = "ViT-B-32"\n' + task(), "[backbone] weights is missing; only a folder of a model"),
        ('[backbone]\nmodel = "gone/model"\n' + task(), "[backbone] model names"),
        ('[backbone]\nmodel = "gone.json"\nweights = "openai"\n' + task(), "[backbone] model names"),
        ('[backbone]\nmodel = "ViT-B-32"\nweights = "gone.pt"\n' + task(), "[backbone] weights names"),
        (BACKBONE + 'wieghts = "x"\n' + task(), "wieghts is not a known key; did you mean weights?"),
        (BACKBONE + task() + task(), "task has two tasks called 'sea' and 'sea'"),
        (BACKBONE + task(name='"a"') + task(name='"a"'), "task has two tasks called 'a' and 'a'"),
        (BACKBONE + task() + task(name='"SEA"'), "task has two tasks called 'sea' and 'SEA'; names must differ in more than"),
        ("[backbone", " cannot be read as TOML: "),
        ('{"backbone": {}}', "(at line 1, column 1); correct it there, or name a task file"),
        pytest.param("x = " + "[" * 100_000, " cannot be read as TOML: ", id="nested"),
    ],
)
def test_file_refused(base: Path, content: str, message: str) -> None:
    assert message in refused(base, content)


def test_file_that_cannot_be_read(base: Path) -> None:
    with pytest.raises(TaskFileError, match=r"gone\.toml cannot be read as TOML"):
        read_task_file(base / "gone.toml")
    (base / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(TaskFileError, match=r"latin\.toml cannot be read as TOML"):
        read_task_file(base / "latin.toml")


@given(st.from_regex(TASK_NAME, fullmatch=True))
def test_task_names_stay_inside_their_folder(name: str) -> None:
    path = Path("experts") / f"{name}.safetensors"
    assert path.parent == Path("experts")
    assert path.name.isascii()
    assert not path.name.startswith(".")


def test_reading_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = sys.modules['open_clip'] = None; import mingle_edge.data.task_file"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
