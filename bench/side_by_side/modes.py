"""How a shape is called: plainly, with states, in the other state layout, or packed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    name: str
    about: str
    states: bool = False  # initial state in, final state out
    v_first: bool = False  # states are [N, H, V, K]
    packed: bool = False  # sequences follow each other along T, cu_seqlens says where they end


PLAIN = Mode("plain", "q, k, v, g in and o out")
STATES = Mode("states", "with initial and final state", states=True)
V_FIRST = Mode("v_first", "with states in [V, K] layout", states=True, v_first=True)
PACKED = Mode("packed", "variable length: cu_seqlens, equal lengths unless --lengths says otherwise", packed=True)

MODES = (PLAIN, STATES, V_FIRST, PACKED)
