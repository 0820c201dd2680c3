"""Upload an export to the Hugging Face hub: the files of its manifest alone."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from targetsft_jax.hf.peft import CONFIG_FILE as ADAPTER_CONFIG
from targetsft_jax.hf.tensor_files import read_json
from targetsft_jax.storage import manifest
from targetsft_jax.storage.run_dir import RunDir

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WEIGHTS = (".safetensors", ".safetensors.index.json")


def push(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    update: bool = False,
    api: "HfApi | None" = None,
) -> str:
    """Upload an export to a model repository on the hub, in one commit.

    The files are compared with the manifest first, and no other file is uploaded.

    Args:
        folder: exported model or adapters, such as RUN/hf.
        repo: ORGANIZATION/NAME or USER/NAME.
        private: create a private repository.
        update: commit to an existing repository; weights there that the export lacks
            are deleted, other files stay.
        api: client; None: of the hub, with the token of the login or of HF_TOKEN.

    Returns:
        A message with the URL.

    Raises:
        ValueError: the folder is not an intact export, or others could not load it; the
            repository exists (or does not, with `update`), or the hub refuses it.
        OSError: there is no token, or the hub cannot be reached.
    """
    if not _ID.fullmatch(repo):
        raise ValueError(f"the repository is {repo!r}; expected ORGANIZATION/NAME")
    if private and update:
        raise ValueError(
            "--private is for a new repository and --update for an existing one; set "
            "the visibility of an existing one on the hub"
        )
    files = _files(folder)
    api = api or _logged_in()
    state = "nothing was uploaded"
    if not update:
        _request(lambda: api.create_repo(repo, private=private), repo, state)
        state = "the repository was created and is empty; repeat with --update"
    _request(lambda: _commit(api, folder, repo, files, update), repo, state)
    visibility = "" if update else " (private)" if private else " (public)"
    size = sum((folder / name).stat().st_size for name in files)
    return (
        f"uploaded {len(files)} files, {size / 1e6:,.1f} MB, of {folder} to\n"
        f"  {api.endpoint}/{repo}{visibility}"
    )


def _files(folder: Path) -> list[str]:
    """Relative paths of the files to upload.

    Raises:
        ValueError: the folder is not an intact export, or others could not load it.
    """
    if (
        not (folder / "config.json").is_file()
        and not (folder / ADAPTER_CONFIG).is_file()
    ):
        run_dir = RunDir(folder)
        is_run = run_dir.config.is_file()
        raise ValueError(
            f"{folder} is {'a run directory' if is_run else 'not an exported model'}; "
            f"expected an export, such as {run_dir.export if is_run else 'RUN/hf'}, or "
            "the output of `convert`"
        )
    if changed := manifest.differences(folder):
        raise ValueError(
            f"{folder} is not as this package exported it ({'; '.join(changed[:3])}), "
            "and nothing else is uploaded; export it again, with `convert`"
        )
    if (folder / ADAPTER_CONFIG).is_file():
        base = str(read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path"))
        if not _ID.fullmatch(base):
            raise ValueError(
                f"the adapters in {folder} name the local folder {base} as their base, "
                "which others lack; export them with `convert to-peft RUN OUT --base "
                "ORGANIZATION/NAME`"
            )
    return [*manifest.names(folder), manifest.FILE]


def _logged_in() -> "HfApi":
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise OSError(
            "there is no token of the hub; log in with `hf auth login`, or set HF_TOKEN"
        )
    return HfApi()


def _commit(
    api: "HfApi", folder: Path, repo: str, files: list[str], update: bool
) -> None:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    stale: list[str] = []
    if update:
        remote = set(api.list_repo_files(repo)) - {*files}
        stale = sorted(n for n in remote if "/" not in n and n.endswith(_WEIGHTS))
    operations: list[Any] = [
        *(CommitOperationAdd(name, folder / name) for name in files),
        *(CommitOperationDelete(name) for name in stale),
    ]
    api.create_commit(repo, operations, commit_message="Upload with targetsft-jax")


def _request(action: Callable[[], T], repo: str, state: str) -> T:
    """Result of a request; errors of the client become one sentence.

    Args:
        action: the request.
        repo: the repository.
        state: what was done before, for the message.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return action()
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        reason = {
            401: "the token is not valid; log in with `hf auth login`",
            403: "the token may not write there; use one with the permission to write",
            404: "it does not exist, or the token may not see it; omit --update to "
            "create it",
            409: "it exists; pass --update to add a commit to it, or choose another "
            "name",
        }.get(status or 0) or _first_line(error)
        raise ValueError(f"{repo}: {reason} ({status}; {state})") from None
    except ValueError as error:
        raise ValueError(f"{repo}: {_first_line(error)} ({state})") from None
    # The HTTP library, and so its errors, depend on the version of the client.
    except Exception as error:  # noqa: BLE001
        raise OSError(
            "the hub cannot be reached, or its answer not be read "
            f"({type(error).__name__}: {_first_line(error)}); {state}"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
