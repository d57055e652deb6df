"""Axes of tensors as products of atoms, and which atoms are one: the arithmetic of a permutation specification.

An axis of attention's output is heads x head dimension; an axis that a convolution's channels were flattened into is
channels x height x width. Atoms that data flow ties together are united, and split where a view splits them. A fixed atom is
one whose order means something.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class Atom:
    """``parts`` is None for an atom that stands for itself; else it is their product, the first part outermost."""

    __slots__ = ("size", "fixed", "parts")

    def __init__(self, size: int, fixed: bool = False) -> None:
        self.size, self.fixed = size, fixed
        self.parts: tuple[Atom, ...] | None = None


Axis = tuple[Atom, ...]


def new_axis(size: int, *, fixed: bool = False) -> Axis:
    return (Atom(size, fixed),) if size != 1 else ()


def resolve(axis: Iterable[Atom]) -> Axis:
    """The atoms that ``axis`` is a product of by now."""
    found: list[Atom] = []
    for atom in axis:
        found += [atom] if atom.parts is None else resolve(atom.parts)
    return tuple(found)


def fix(*axes: Axis) -> bool:
    """Say that the order along the axes means something; True where it was free until now."""
    free = [atom for axis in axes for atom in resolve(axis) if not atom.fixed]
    for atom in free:
        atom.fixed = True
    return bool(free)


def unite(one: Axis, other: Axis) -> None:
    """Say that the two axes, of one size, run in step. Products that have no common refinement are fixed."""
    mine, theirs = resolve(one), resolve(other)
    while mine and theirs:
        a, b = mine[0], theirs[0]
        if max(a.size, b.size) % min(a.size, b.size):
            fix(mine, theirs)
            return
        if a.size != b.size:
            split(max(a, b, key=lambda atom: atom.size), min(a.size, b.size))
        else:
            if a is not b:
                b.fixed |= a.fixed
                a.parts = (b,)
            mine, theirs = mine[1:], theirs[1:]
        mine, theirs = resolve(mine), resolve(theirs)


def split(atom: Atom, outer: int) -> None:
    """The atom as a product of ``outer`` and the rest."""
    atom.parts = (Atom(outer, atom.fixed), Atom(atom.size // outer, atom.fixed))


def cut(axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """The axis as axes of ``sizes``, whose product is its size; where atoms do not fit into them, everything is fixed."""
    left, found = resolve(axis), []
    for size in sizes:
        part: Axis = ()
        while size > 1:
            atom = left[0]
            if size % atom.size == 0:
                part, left, size = (*part, atom), left[1:], size // atom.size
            elif atom.size % size == 0:
                split(atom, size)
                left = resolve(left)
            else:
                fix(axis)
                return [new_axis(whole, fixed=True) for whole in sizes]
        found.append(part)
    return found
