"""Put a profile over params.yaml: `python -m nas.runtime.presets imagenet`, or that of a pipeline: `python -m nas.runtime.presets paper tf_nas`.

A profile (profiles/<name>.yaml, beside params.yaml) lists only what differs. Comments and order of params.yaml stay.
"""

import sys
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from nas.runtime.params import FILE, ParamsError, read_all

FOLDER = Path("presets")
PIPELINES = (Path("pipelines"), Path("studies"))
# replaced, not merged: another choice has other keys
WHOLE = ("split.data", "recipe.distillation", "latency.backend", "transfer.augmentation")


def apply(name: str, file: Path = FILE, folder: Path = FOLDER) -> list[str]:
    """Change the parameter file in place; returns the keys whose value changed.

    Raises:
        ParamsError: for a profile that does not exist, or a key that params.yaml does not have.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise ParamsError(f"there is no profile {name!r}; found {sorted(p.stem for p in folder.glob('*.yaml'))} in {folder}/")
    yaml = YAML()
    yaml.width = 200
    yaml.preserve_quotes = True
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    for each in (file, path):  # ruamel keeps comments, but what it makes of a strange file is not checked
        read_all(each)
    params, profile = yaml.load(file.read_text("utf-8-sig")), yaml.load(path.read_text("utf-8-sig"))
    changed = _merge(params, profile, path, "")
    with open(file, "w") as out:
        yaml.dump(params, out)
    return changed


def _merge(params: CommentedMap, profile: CommentedMap, path: Path, prefix: str) -> list[str]:
    changed = []
    for key, value in profile.items():
        if key not in params:
            raise ParamsError(f"{path}: {prefix}{key} is no key of params.yaml; there are {sorted(params)}")
        if isinstance(value, dict) and isinstance(params[key], dict) and f"{prefix}{key}" not in WHOLE:
            changed += _merge(params[key], value, path, f"{prefix}{key}.")
        elif params[key] != value:
            params[key] = value
            changed.append(f"{prefix}{key}")
    return changed


def main(name: str, pipeline: str = "") -> None:
    folders = {p.parent.name: p.parent for parent in PIPELINES for p in parent.glob(f"*/{FILE}") if (p.parent / FOLDER).is_dir()}
    folder = folders.get(pipeline) if pipeline else Path()
    if folder is None:
        there = sorted(folders)
        sys.exit(f"error: there is no pipeline {pipeline!r}; there are {there}")
    try:
        changed = apply(name, folder / FILE, folder / FOLDER)
    except ParamsError as error:
        sys.exit(f"error: {error}")
    file = folder / FILE
    print(f"{file}: {', '.join(changed) or 'nothing'} changed; `git diff {file}` shows it, `dvc repro` runs what depends on it")


if __name__ == "__main__":
    there = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    main(*sys.argv[1:3] or sys.exit(f"usage: python -m nas.runtime.presets NAME [PIPELINE]; of the main pipeline there are {there}"))
