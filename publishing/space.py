"""The page as a Space: app.py with the modules that it imports, and no other, wired to one model."""

import ast
import importlib.metadata
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
MODEL_FILE = "model_id.txt"  # app.py reads it
CPU_WHEELS = "--extra-index-url https://download.pytorch.org/whl/cpu"  # a Space without a GPU needs none of CUDA
IMPLIED = {"pillow", "gradio"}  # transformers' image processors import one only when they are made; a Space brings one
README = """---
{header}---

# {title}

[GloResNet](https://arxiv.org/abs/2606.02498) screens a preterm infant's T2-weighted brain MRI for injury. **For
research use only:** not a medical device, and not for any decision about a patient.
Model: [{model_id}](https://huggingface.co/{model_id}).

It runs on your own machine as well, where scans stay with you: clone it, `pip install -r requirements.txt`,
`python app.py`. A private model needs a token of yours: `hf auth login`, or the secret `HF_TOKEN` of the Space.
"""


def space_files(model_id: str, title: str) -> dict[str, Path | bytes]:
    """What a Space repository holds, by name.

    Args:
        model_id: ORG/NAME of the model that the page loads.
        title: of the Space.
    """
    header = yaml.safe_load((ROOT / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    header |= {"title": title, "models": [model_id]}
    header = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    readme = README.format(header=header, title=title, model_id=model_id)
    sources = imported_sources(ROOT / "app.py")
    files = {path.relative_to(ROOT).as_posix(): path for path in sources}
    # a package's templates, styles and scripts go with its code
    for package in {path.parent for path in sources if path.name == "__init__.py"}:
        data = [path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc", ".pyi")]
        files |= {path.relative_to(ROOT).as_posix(): path for path in data}
    files |= {
        "README.md": readme.encode(),
        "requirements.txt": requirements(sources).encode(),
        MODEL_FILE: f"{model_id}\n".encode(),
        "LICENSE": ROOT / "LICENSE",
    }
    return dict(sorted(files.items()))


def is_space_file(name: str) -> bool:
    """Whether a file of an earlier upload was ours, so that it goes when it is not needed any more."""
    return name == MODEL_FILE or name.split("/")[0] in house() or name in ("app.py", "README.md", "requirements.txt")


def imported_sources(script: Path) -> list[Path]:
    """The files of this project that a script imports, directly and through others, itself first."""
    found, waiting = [], [script]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.append(path)
        for module in imported_modules(path):
            # of `a.b.c`: the packages a and a.b, and the module, unless c is a name within a.b
            parts = module.split(".")
            for end in range(1, len(parts) + 1):
                place = ROOT.joinpath(*parts[:end])
                waiting += [file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()]
    return found


def imported_modules(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it; relative ones from the root, `from a import b` as `a.b`."""
    package = path.relative_to(ROOT).parts[:-1] if path.is_relative_to(ROOT) else ()
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def requirements(sources: list[Path]) -> str:
    """The lines of requirements.txt that these files need."""
    modules = {name.split(".")[0] for path in sources for name in imported_modules(path)}
    distributions = importlib.metadata.packages_distributions()
    needed = {_normal(name) for module in modules for name in distributions.get(module, [])} | IMPLIED
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if re.match(r"\w", line) and _normal(line.split("==")[0]) in needed]
    return "\n".join([CPU_WHEELS, *pins]) + "\n"


def house() -> set[str]:
    """Names of this project's packages."""
    return {path.parent.name for path in ROOT.glob("*/__init__.py")}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
