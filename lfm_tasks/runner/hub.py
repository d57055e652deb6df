"""Models and data sets of the Hugging Face hub, or of its local cache."""

from __future__ import annotations

from pathlib import Path

from lfm_tasks.artifacts.references import Reference
from lfm_tasks.errors import ReferenceRefused, Unavailable
from lfm_tasks.runner.snapshots import DATA_FILES
from lfm_tasks.settings import Settings

MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
FILES = {"model": MODEL_FILES, "dataset": DATA_FILES}


def snapshot(reference: Reference, kind: str, settings: Settings) -> tuple[Path, str]:
    """The cached directory of the repository at its revision, and the commit that the revision names.

    Raises :class:`ReferenceRefused` for what is not there, :class:`Unavailable` when the hub does not answer.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        IncompleteSnapshotError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        directory = snapshot_download(
            reference.name,
            repo_type=kind,
            revision=reference.revision,
            cache_dir=settings.hf_cache,
            local_files_only=settings.hf_offline,
            allow_patterns=list(FILES[kind]),
        )
    except (LocalEntryNotFoundError, IncompleteSnapshotError) as error:
        raise _not_cached(reference, kind, settings, isinstance(error, IncompleteSnapshotError)) from error
    except GatedRepoError as error:
        raise ReferenceRefused(f"{reference.text} is gated. Accept its terms on the hub, and set HF_TOKEN in the environment.") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ReferenceRefused(
            f"The hub has no {kind} {reference.text}. Check the name and the revision; a private one needs HF_TOKEN in the environment."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise Unavailable(f"The hub did not give {reference.text}: {type(error).__name__}: {error}. Try again later.") from error
    return Path(directory), Path(directory).name


def cache_directory(settings: Settings) -> Path:
    from huggingface_hub import constants

    return Path(settings.hf_cache or constants.HF_HUB_CACHE)


def _not_cached(reference: Reference, kind: str, settings: Settings, partly: bool) -> Exception:
    found = "only partly" if partly else "not"
    looked = f"{kind} {reference.name} at revision {reference.revision or 'main'} is {found} in the hub cache {cache_directory(settings)}"
    option = " --repo-type dataset" if kind == "dataset" else ""
    download = f"`hf download {reference.name}{option}`"
    if settings.hf_offline:
        return ReferenceRefused(
            f"{reference.text}: the {looked}, and LFM_HF_OFFLINE is on. Fill the cache where the hub can be reached ({download}), "
            "point LFM_HF_CACHE at it, or set LFM_HF_OFFLINE=false."
        )
    return Unavailable(f"{reference.text}: the hub cannot be reached, and the {looked}. Try again later, or fill the cache by {download}.")
