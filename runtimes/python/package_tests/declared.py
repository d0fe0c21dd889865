"""What `nuclio_handler/__init__.pyi` declares, compared with an object: in both directions, and the values' types."""

import ast
import collections.abc
import datetime
import os
import typing

import nuclio_handler

STUB = os.path.join(os.path.dirname(nuclio_handler.__file__), "__init__.pyi")
NAMES = {**vars(typing), **vars(collections.abc), "datetime": datetime.datetime}


def read():
    """Members of each class: name -> annotation of an attribute, or None of a method; bases come first."""
    with open(STUB, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    classes, aliases = {}, {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            members = {}
            for base in node.bases:
                members.update(classes.get(getattr(base, "id", ""), {}))
            for member in node.body:
                if isinstance(member, ast.AnnAssign):
                    members[member.target.id] = member.annotation
                elif isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    members[member.name] = None
            classes[node.name] = members
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            aliases[node.target.id] = node.value
    return classes, aliases


CLASSES, ALIASES = read()


def conforms(value, annotation):
    """Whether a value is of an annotated type, as far as such a test can see."""
    if isinstance(annotation, ast.Constant):
        return value is None if annotation.value is None else conforms(value, ast.parse(annotation.value).body[0].value)
    if isinstance(annotation, ast.Name):
        name = annotation.id
        if name in CLASSES:
            return any(one.__name__ == name for one in type(value).__mro__)
        if name in ALIASES:
            return conforms(value, ALIASES[name])
        if name == "Any":
            return True
        if name == "int":
            return isinstance(value, int) and not isinstance(value, bool)
        return isinstance(value, NAMES.get(name) or getattr(__builtins__, name, None) or __builtins__[name])
    assert isinstance(annotation, ast.Subscript), ast.dump(annotation)
    outer, inner = annotation.value.id, annotation.slice
    inner = getattr(inner, "value", inner) if type(inner).__name__ == "Index" else inner  # Python 3.8 and older trees
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if outer == "Optional":
        return value is None or conforms(value, parts[0])
    if outer == "Union":
        return any(conforms(value, part) for part in parts)
    if outer == "dict":
        return isinstance(value, dict) and all(
            conforms(key, parts[0]) and conforms(one, parts[1]) for key, one in value.items())
    if outer == "list":
        return isinstance(value, list) and all(conforms(one, parts[0]) for one in value)
    if outer == "tuple":
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(conforms, value, parts))
    if outer == "type":
        return isinstance(value, type) and value.__name__ == parts[0].id
    return isinstance(value, NAMES[outer])


def faults(value, name, extra=()):
    """What is not as declared; `extra`: names that are known to be more."""
    declared = {member for member in CLASSES[name] if not member.startswith("__")}
    there = {member for member in dir(value) if not member.startswith("_")}
    found = ["%s has no %s" % (name, member) for member in sorted(declared - there)]
    found += ["%s.%s is not declared" % (name, member) for member in sorted(there - declared - set(extra))]
    for member in sorted(declared & there):
        annotation, one = CLASSES[name][member], getattr(value, member)
        if annotation is None:
            # A property has a value where a method is called.
            if not callable(one) and not isinstance(getattr(type(value), member, None), property):
                found.append("%s.%s is no method" % (name, member))
        elif not conforms(one, annotation):
            found.append("%s.%s is %r, declared %s" % (name, member, one, ast.dump(annotation)))
    return found
