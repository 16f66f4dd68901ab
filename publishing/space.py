"""The web page as a Space on the Hub: app.py with the modules it imports and no others, set up for one model."""

import ast
import importlib.metadata
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
MODEL_FILE = "model_id.txt"  # app.py reads it
CPU_WHEELS = "--extra-index-url https://download.pytorch.org/whl/cpu"  # a Space without a GPU does not need CUDA
# the page also reads DICOM, and may serve a model that corrects the bias field or has a network of MONAI
PINS = ("requirements.txt", "requirements-hospital.txt", "requirements-baselines.txt")
# needed but not found among the imports: image processors of transformers import pillow when they are created, a Space
# itself runs gradio, pydicom decodes compressed pixels with gdcm, and some networks of MONAI need einops
IMPLIED = {"pillow", "gradio", "python-gdcm", "einops"}
README = """---
{header}---

# {title}

[GloResNet](https://arxiv.org/abs/2606.02498) screens T2-weighted brain MRI of preterm infants for injury. **For
research use only.** It is not a medical device and must not be used for any decision about a patient.
Model: [{model_id}](https://huggingface.co/{model_id}).

To keep your scans on your own machine, run this page there: clone this repository, then
`pip install -r requirements.txt` and `python app.py`. A private model needs your token: run `hf auth login`, or set the
secret `HF_TOKEN` of the Space.
"""


def space_files(model_id: str, title: str) -> dict[str, Path | bytes]:
    """The files of a Space repository, by name.

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
    # add each package's templates, styles and scripts
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
    """Whether a file in a Space came from an earlier upload, so that it can be deleted when no longer needed."""
    return (
        name == MODEL_FILE
        or name.split("/")[0] in own_packages()
        or name in ("app.py", "README.md", "requirements.txt")
    )


def imported_sources(script: Path) -> list[Path]:
    """The files of this project that a script imports, directly or indirectly. The script itself comes first."""
    found, waiting = [], [script]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.append(path)
        for module in imported_modules(path):
            # for `a.b.c`: the packages a and a.b, and the module a.b.c unless c is only a name within a.b
            parts = module.split(".")
            for end in range(1, len(parts) + 1):
                target = ROOT.joinpath(*parts[:end])
                waiting += [file for file in (target / "__init__.py", target.with_suffix(".py")) if file.is_file()]
    return found


def imported_modules(path: Path) -> set[str]:
    """Dotted names of all imports in a file, also inside functions. `from a import b` gives `a.b`.

    Relative imports are resolved from the root of the project.
    """
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
    """The lines of the files `PINS` that these files need, also for packages that are not installed here."""
    modules = {name.split(".")[0] for path in sources for name in imported_modules(path)}
    distributions = importlib.metadata.packages_distributions()
    needed = {_normal(name) for module in modules for name in distributions.get(module, [module])} | IMPLIED
    lines = [line for name in PINS for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    pins = [line for line in lines if re.match(r"\w", line) and _normal(line.split("==")[0]) in needed]
    return "\n".join([CPU_WHEELS, *pins]) + "\n"


def own_packages() -> set[str]:
    """The names of this project's packages."""
    return {path.parent.name for path in ROOT.glob("*/__init__.py")}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
