"""Checks the dependencies against deny.toml: licences, bans, duplicate versions, sources.

Does what `cargo deny check bans licenses sources` does, as far as deny.toml uses it, with nothing
but Python, so that the rules hold on every machine.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict

TOKEN = re.compile(r"\(|\)|[^\s()]+")


def main():
    with open("deny.toml", "rb") as file:
        rules = tomllib.load(file)
    packages = metadata()["packages"]
    faults = [
        *licences(packages, set(rules["licenses"]["allow"])),
        *bans(packages, rules["bans"]["deny"]),
        *duplicates(packages, rules["bans"]["skip"]),
        *wildcards(packages),
        *sources(packages),
    ]
    for fault in faults:
        print(f"error: {fault}")
    print(f"{len(packages)} packages, {len(faults)} faults")
    return 1 if faults else 0


def metadata():
    line = ["cargo", "metadata", "--locked", "--all-features", "--format-version", "1"]
    done = subprocess.run(line, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def licences(packages, allowed):
    used = set()
    for package in packages:
        text = package["license"]
        if not text:
            yield f"{title(package)} names no licence"
        elif not accepted(text, allowed, used):
            yield f"{title(package)} has a licence that is not allowed: {text}"
    for licence in sorted(allowed - used):
        yield f"the licence {licence} is allowed and no package has it"


def accepted(text, allowed, used):
    """Evaluates an SPDX expression; `/` is how older crates write OR."""
    tokens = TOKEN.findall(text.replace("/", " OR "))

    def alternatives():
        result = combination()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            result = combination() or result
        return result

    def combination():
        result = licence()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            result = licence() and result
        return result

    def licence():
        name = tokens.pop(0)
        if name == "(":
            result = alternatives()
            tokens.pop(0)
            return result
        if tokens and tokens[0] == "WITH":
            tokens.pop(0)
            name = f"{name} WITH {tokens.pop(0)}"
        if name in allowed:
            used.add(name)
        return name in allowed

    return alternatives()


def bans(packages, denied):
    reasons = {rule["name"]: rule["reason"] for rule in denied}
    for package in packages:
        name = package["name"]
        if name in reasons:
            users = [p["name"] for p in packages if name in {d["name"] for d in p["dependencies"]}]
            yield f"{title(package)} is banned ({reasons[name]}); named by {', '.join(users)}"


def duplicates(packages, skipped):
    versions = defaultdict(set)
    for package in packages:
        versions[package["name"]].add(package["version"])
    unneeded = {(rule["name"], rule["version"]) for rule in skipped}
    for name, found in sorted(versions.items()):
        extra = set(found)
        for rule in skipped:
            matching = {v for v in found if rule["name"] == name and is_of(v, rule["version"])}
            if matching and len(found) > 1:
                unneeded.discard((name, rule["version"]))
                extra -= matching
        if len(extra) > 1:
            yield f"{name} is there in several versions: {', '.join(sorted(found))}"
    for name, version in sorted(unneeded):
        yield f"deny.toml skips {name} {version}, which is no duplicate"


def is_of(version, prefix):
    parts = prefix.split(".")
    return version.split(".")[: len(parts)] == parts


def wildcards(packages):
    for package in packages:
        for dependency in package["dependencies"] if package["source"] is None else []:
            if dependency["req"] == "*" and "path" not in dependency:
                yield f"{title(package)} takes any version of {dependency['name']}"


def sources(packages):
    """All from one registry, and none from a repository or a folder outside of the workspace."""
    found = {package["source"] for package in packages} - {None}
    registries = {source for source in found if source.startswith("registry+")}
    for package in packages:
        if package["source"] in found - registries:
            yield f"{title(package)} comes from {package['source']}"
    if len(registries) > 1:
        yield f"packages come from {len(registries)} registries: {sorted(registries)}"


def title(package):
    return f"{package['name']} {package['version']}"


if __name__ == "__main__":
    sys.exit(main())
