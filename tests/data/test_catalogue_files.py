"""Published files of a data set are complete and of one commit, or refused."""

import pytest
from support.published import BOXED, PUBLISHED, write

from targetsft_jax.data.catalogue import builder


def test_missing_shards_and_folders_are_refused(tmp_path):
    row = {"source": "amc", "problem": "?", "solution": BOXED}
    write(tmp_path / "data/train-00001-of-00003.parquet", [row])
    with pytest.raises(ValueError, match="train-00000-of-00003.parquet is missing: 1"):
        builder.build("numina_math_cot", str(tmp_path), str(tmp_path))
    with pytest.raises(ValueError, match="has no file of gsm8k; expected some of gra"):
        builder.build("gsm8k", str(tmp_path), str(tmp_path))
    with pytest.raises(ValueError, match="no such folder; expected the files of gsm8k"):
        builder.build("gsm8k", str(tmp_path), str(tmp_path / "none"))
    with pytest.raises(ValueError, match="'gsm9k' is not in the catalogue"):
        builder.build("gsm9k", str(tmp_path), str(tmp_path))


def test_files_come_from_one_commit_of_the_hub(tmp_path, monkeypatch):
    import huggingface_hub

    downloads = []
    write(tmp_path / "hub/main/test-00000-of-00001.parquet", [PUBLISHED[2][2]])

    class Api:
        def dataset_info(self, repo):
            names = ["README.md", "main/test-00000-of-00001.parquet", "socratic/x"]
            files = [type("Sibling", (), {"rfilename": name}) for name in names]
            return type("Info", (), {"sha": "c0ffee", "siblings": files})

    def download(repo, path, *, repo_type, revision):
        downloads.append((repo, path, repo_type, revision))
        return str(tmp_path / "hub" / path)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    built = builder.build("gsm8k", str(tmp_path / "built"))
    assert built.origin == "openai/gsm8k@c0ffee" and built.splits == {"test": 1}
    file = "main/test-00000-of-00001.parquet"
    assert downloads == [("openai/gsm8k", file, "dataset", "c0ffee")]
