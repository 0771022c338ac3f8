"""Public datasets: what there is, where it may lie on this machine, and how to get it; no parsing may be here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from rakka_sim.config.workload import TraceFormat
from rakka_sim.errors import DatasetMissing, UnknownName
from rakka_sim.workload.download import download, sha256_of

PUBLIC_HOST = "https://raw.githubusercontent.com"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A file that its owners publish; it is fetched by its users, never shipped with this package.

    `public` is the path on the public host, `file` the name it gets here (the public names are not all telling).
    """

    name: str
    format: TraceFormat
    public: str
    file: str
    bytes: int
    sha256: str
    rows: int
    licence: str
    citation: str

    @property
    def file_names(self) -> tuple[str, ...]:
        """The names under which the file is recognised."""
        return self.file, self.public.rpartition("/")[2]

    @property
    def url(self) -> str:
        """Where to get it: at its public host, or at the mirror of it that RAKKA_SIM_MIRROR names."""
        return f"{(os.environ.get('RAKKA_SIM_MIRROR') or PUBLIC_HOST).rstrip('/')}/{self.public}"


_SPLITWISE = "Patel et al., Splitwise: Efficient Generative LLM Inference Using Phase Splitting, ISCA 2024"
_MOONCAKE = "Qin et al., Mooncake: Trading More Storage for Less Computation, FAST 2025"
_AZURE_REPO = "Azure/AzurePublicDataset/refs/heads/master/data"
_MOONCAKE_REPO = "kvcache-ai/Mooncake/refs/heads/main/FAST25-release/traces"

CATALOGUE: tuple[Dataset, ...] = (
    Dataset(
        name="azure-2023-conv",
        format="azure",
        public=f"{_AZURE_REPO}/AzureLLMInferenceTrace_conv.csv",
        file="azure_llm_2023_conv.csv",
        bytes=719_188,
        sha256="2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8",
        rows=19_366,
        licence="CC-BY-4.0",
        citation=_SPLITWISE,
    ),
    Dataset(
        name="azure-2023-code",
        format="azure",
        public=f"{_AZURE_REPO}/AzureLLMInferenceTrace_code.csv",
        file="azure_llm_2023_code.csv",
        bytes=320_117,
        sha256="54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6",
        rows=8_819,
        licence="CC-BY-4.0",
        citation=_SPLITWISE,
    ),
    Dataset(
        name="mooncake-conversation",
        format="mooncake",
        public=f"{_MOONCAKE_REPO}/conversation_trace.jsonl",
        file="mooncake_conversation.jsonl",
        bytes=3_029_533,
        sha256="b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df",
        rows=12_031,
        licence="Apache-2.0",
        citation=_MOONCAKE,
    ),
    Dataset(
        name="mooncake-synthetic",
        format="mooncake",
        public=f"{_MOONCAKE_REPO}/synthetic_trace.jsonl",
        file="mooncake_synthetic.jsonl",
        bytes=1_136_313,
        sha256="bd070915a98fc0ed264d7cfef2ce746002eb3076a695ec31ba2674c0111ec131",
        rows=3_993,
        licence="Apache-2.0",
        citation=_MOONCAKE,
    ),
)


def lookup(name: str) -> Dataset:
    """The catalogue's entry. Raises UnknownName."""
    for dataset in CATALOGUE:
        if dataset.name == name:
            return dataset
    raise UnknownName("dataset", name, f"one of: {', '.join(dataset.name for dataset in CATALOGUE)}")


def cache_dir() -> Path:
    """Where fetched datasets are kept."""
    # An empty or relative XDG_CACHE_HOME counts as unset: so says its specification.
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "rakka_sim"


def find(dataset: str, data_dirs: Iterable[Path] = ()) -> Path:
    """The dataset's file: in `data_dirs`, in the folders of RAKKA_SIM_DATA or their ``traces``, or in the cache.

    The first one counts. A file is known by its name; its content is not checked. Raises UnknownName, DatasetMissing.
    """
    wanted = lookup(dataset)
    named = [Path(folder) for folder in os.environ.get("RAKKA_SIM_DATA", "").split(os.pathsep) if folder]
    folders = [*data_dirs, *(place for folder in named for place in (folder, folder / "traces")), cache_dir()]
    for folder in folders:
        for name in wanted.file_names:
            if (folder / name).is_file():
                return folder / name
    raise DatasetMissing(dataset, [str(folder) for folder in folders])


def fetch(dataset: str, *, url: str | None = None, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """Download the dataset into the cache, unless its very content is there already.

    `progress` hears (bytes so far, bytes in all). Raises UnknownName, FetchFailed; a failure leaves nothing behind.
    """
    wanted = lookup(dataset)
    target = (cache or cache_dir()) / wanted.file
    if target.is_file() and sha256_of(target) == wanted.sha256:
        return target
    download(wanted.name, url or wanted.url, target, size=wanted.bytes, sha256=wanted.sha256, progress=progress)
    return target
