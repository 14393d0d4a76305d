"""Apply a preset to params.yaml: `python -m nas.runtime.presets imagenet`; of a pipeline: `... presets paper tf_nas`.

A preset (presets/<name>.yaml, beside params.yaml) lists only the values that differ. Comments and order of params.yaml stay.
"""

import sys
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from nas.runtime.params import FILE, ParamsError, read_all

FOLDER = Path("presets")
PIPELINES = (Path("pipelines"), Path("studies"))
# replaced, not merged, since each choice has its own keys
REPLACED = ("split.data", "recipe.distillation", "latency.backend", "transfer.augmentation")


def apply(name: str, file: Path = FILE, folder: Path = FOLDER) -> list[str]:
    """Change the parameter file in place; returns the keys whose value changed.

    Raises:
        ParamsError: for an unknown preset, or a key that params.yaml does not have.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise ParamsError(f"there is no preset {name!r}; found {sorted(p.stem for p in folder.glob('*.yaml'))} in {folder}/")
    yaml = YAML()
    yaml.width = 200
    yaml.preserve_quotes = True
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    for document in (file, path):  # ruamel keeps comments, but does not check a file as `read_all` does
        read_all(document)
    params, preset = yaml.load(file.read_text("utf-8-sig")), yaml.load(path.read_text("utf-8-sig"))
    changed = _merge(params, preset, path, "")
    with open(file, "w") as out:
        yaml.dump(params, out)
    return changed


def _merge(params: CommentedMap, preset: CommentedMap, path: Path, prefix: str) -> list[str]:
    changed = []
    for key, value in preset.items():
        if key not in params:
            raise ParamsError(f"{path}: {prefix}{key} is not a key of params.yaml; its keys are {sorted(params)}")
        if isinstance(value, dict) and isinstance(params[key], dict) and f"{prefix}{key}" not in REPLACED:
            changed += _merge(params[key], value, path, f"{prefix}{key}.")
        elif params[key] != value:
            params[key] = value
            changed.append(f"{prefix}{key}")
    return changed


def main(name: str, pipeline: str = "") -> None:
    folders = {p.parent.name: p.parent for parent in PIPELINES for p in parent.glob(f"*/{FILE}") if (p.parent / FOLDER).is_dir()}
    folder = folders.get(pipeline) if pipeline else Path()
    if folder is None:
        sys.exit(f"error: there is no pipeline {pipeline!r}; the pipelines with presets are {sorted(folders)}")
    try:
        changed = apply(name, folder / FILE, folder / FOLDER)
    except ParamsError as error:
        sys.exit(f"error: {error}")
    file = folder / FILE
    print(f"{file}: {', '.join(changed) or 'nothing'} changed; see `git diff {file}`; `dvc repro` runs the stages that depend on it")


if __name__ == "__main__":
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    main(*sys.argv[1:3] or sys.exit(f"usage: python -m nas.runtime.presets NAME [PIPELINE]; presets of the main pipeline: {names}"))
