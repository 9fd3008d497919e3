#!/usr/bin/env python3
"""Make the Kubernetes schemas that the chart's tests validate against.

They come from the PyPI package kubernetes-validate (Apache-2.0, made from Kubernetes' own API description). Of each version only the kinds that
the chart renders are kept, each with the definitions it needs and without descriptions, so that a check needs no network:

    pip download --no-deps -d /tmp/kv kubernetes-validate && unzip -d /tmp/kv /tmp/kv/*.whl
    deploy/kubernetes-schemas/make.py /tmp/kv/kubernetes_validate/kubernetes-json-schema
"""

import json
import pathlib
import sys

VERSIONS = ["v1.27.0", "v1.37.0"]  # the oldest that the chart supports, and the newest
KINDS = [
    "configmap-v1",
    "deployment-apps-v1",
    "networkpolicy-networking-v1",
    "poddisruptionbudget-policy-v1",
    "service-v1",
    "serviceaccount-v1",
]
PREFIX = "#/$defs/"


def walk(node, needed):
    """Drop what only people read, point references into the same file, and note which definitions they need."""
    if isinstance(node, list):
        return [walk(n, needed) for n in node]
    if not isinstance(node, dict):
        return node
    out = {}
    for key, value in node.items():
        if key in ("$id", "$schema") or (key == "description" and isinstance(value, str)) or key.startswith("x-kubernetes"):
            continue
        if key == "$ref":
            name = value.split("#/", 1)[1].split("/", 1)[1]
            needed.add(name)
            value = PREFIX + name
        out[key] = walk(value, needed)
    return out


def main(source):
    here = pathlib.Path(__file__).parent
    for version in VERSIONS:
        folder = source / (version + "-local-strict")
        bundle = json.loads((folder / "_definitions.json").read_text())
        definitions = bundle.get("$defs") or bundle["definitions"]
        (here / version).mkdir(exist_ok=True)
        for kind in KINDS:
            needed, done = set(), {}
            schema = walk(json.loads((folder / (kind + ".json")).read_text()), needed)
            while todo := sorted(needed - done.keys()):
                for name in todo:
                    done[name] = walk(definitions[name], needed)
            schema["$defs"] = dict(sorted(done.items()))
            (here / version / (kind + ".json")).write_text(json.dumps(schema, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
