"""Names, base models and licences of models: hub ids and never local paths."""

import pytest

from targetsft_jax.hf.origin import Origin, origin

CARD = "---\nlicense: apache-2.0\nbase_model: org/base\ntags: [a]\n---\n# A model\n"


def test_a_hub_id_is_the_base_model(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    assert origin("org/model-1.5B", tmp_path) == Origin(
        "model-1.5B", "org/model-1.5B", "org/model-1.5B", {"license": "apache-2.0"}
    )


def test_a_local_folder_has_a_name_and_the_base_of_its_card(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    assert origin(str(folder), folder) == Origin("mine")
    assert origin(None, folder) == Origin("mine")
    (folder / "README.md").write_text(CARD)
    expected = Origin("mine", None, "org/base", {"license": "apache-2.0"})
    assert origin(str(folder), folder) == expected
    # A run: the weights are elsewhere than its card.
    assert origin(str(tmp_path / "run"), folder).name == "run"


def test_a_snapshot_of_the_cache_is_a_hub_id(tmp_path):
    folder = tmp_path / "hub/models--org--model/snapshots/0123abcd"
    folder.mkdir(parents=True)
    assert origin(str(folder), folder) == Origin("model", "org/model", "org/model")


@pytest.mark.parametrize(
    "path", ["/models/student", "./student", "~/student", "a/b/c", "../x"]
)
def test_a_path_is_no_hub_id(path, tmp_path):
    found = origin(path, tmp_path)
    assert found.hub_id is None and "/" not in found.name


@pytest.mark.parametrize(
    "text",
    ["", "# A\n---\na: 1\n---\n", "---\n[\n---\n", "---\n- a\n---\n", "---\na: 1\n"],
)
def test_a_card_without_metadata_says_nothing(text, tmp_path):
    (tmp_path / "README.md").write_text(text)
    assert origin(str(tmp_path), tmp_path) == Origin(tmp_path.name)


def test_parts_of_a_run_have_its_name(tmp_path):
    run = tmp_path / "mine"
    for folder in ("hf", "model", "checkpoints/20"):
        (run / folder).mkdir(parents=True)
    (run / "config.yaml").touch()
    assert origin(str(run / "hf"), run / "hf").name == "mine"
    assert origin(str(run / "checkpoints/20"), run / "model").name == "mine, step 20"
    assert origin(str(run), run / "model").name == "mine"
    (run / "config.yaml").unlink()
    assert origin(str(run / "hf"), run / "hf").name == "hf"
