"""Short stories whose later sentences follow from earlier ones, so that a reader must remember who has what, and where."""

from __future__ import annotations

import random
from dataclasses import dataclass

from testbed.world import COLOURS, FOODS, MATERIALS, THINGS, Person, the_world

_WEATHER = ("It was raining", "The sun was shining", "Snow was falling", "A strong wind blew", "The night was clear")
_SPOTS = (
    "under the bridge",
    "behind the mill",
    "in the old tower",
    "beside the well",
    "at the market",
    "in the cellar",
)
_FEELINGS = ("happy", "sad", "angry", "tired", "proud", "afraid")


@dataclass(frozen=True, slots=True)
class Tale:
    """A beginning and its one right ending, three endings that contradict it, and the first names of the two people."""

    beginning: str
    ending: str
    wrong: tuple[str, str, str]
    names: tuple[str, str]

    @property
    def text(self) -> str:
        return f"{self.beginning} {self.ending}"

    @property
    def clear(self) -> bool:
        """Whether a name says who is meant; two people of one first name can make a wrong ending right."""
        return self.names[0] != self.names[1]


def _first(person: Person) -> str:
    return person.name.split()[0]


def _others(draw: random.Random, values: tuple[str, ...] | list[str], right: str) -> list[str]:
    return draw.sample([value for value in values if value != right], 3)


def _lost_and_found(draw: random.Random) -> Tale:
    who, friend = draw.sample(the_world().people, 2)
    colour, thing, spot = draw.choice(COLOURS), draw.choice(THINGS), draw.choice(_SPOTS)
    begin = (
        f"{draw.choice(_WEATHER)} in {who.town}. {who.name} the {who.job} had lost a {colour} {thing}. "
        f"{_first(who)} looked everywhere and could not find it. Then {friend.name} came by. "
        f'"I saw your {thing} {spot}," said {_first(friend)}. They went there together.'
    )
    finish = "{v}, they found the {c} {t}, and {w} was happy."
    right = finish.format(v=spot.capitalize(), c=colour, t=thing, w=_first(who))
    swaps = [
        finish.format(v=_others(draw, list(_SPOTS), spot)[0].capitalize(), c=colour, t=thing, w=_first(who)),
        finish.format(v=spot.capitalize(), c=_others(draw, COLOURS, colour)[0], t=thing, w=_first(who)),
        finish.format(v=spot.capitalize(), c=colour, t=_others(draw, THINGS, thing)[0], w=_first(who)),
    ]
    return Tale(begin, right, (swaps[0], swaps[1], swaps[2]), (_first(who), _first(friend)))


def _trade(draw: random.Random) -> Tale:
    who, friend = draw.sample(the_world().people, 2)
    mine, yours = draw.sample(THINGS, 2)
    begin = (
        f"{who.name} had a {mine} made of {draw.choice(MATERIALS)}, and {friend.name} had a {yours}. "
        f'"Will you give me your {yours} for my {mine}?" asked {_first(who)}. '
        f"{_first(friend)} said yes, and they shook hands."
    )
    finish = "So {a} went home with the {x}, and {b} went home with the {y}."
    one, two = _first(who), _first(friend)
    right = finish.format(a=one, b=two, x=yours, y=mine)
    third, fourth = draw.sample([t for t in THINGS if t not in (mine, yours)], 2)
    wrong = (
        finish.format(a=one, b=two, x=mine, y=yours),
        finish.format(a=one, b=two, x=third, y=mine),
        finish.format(a=one, b=two, x=yours, y=fourth),
    )
    return Tale(begin, right, wrong, (one, two))


def _visit(draw: random.Random) -> Tale:
    who, host = draw.sample(the_world().people, 2)
    gift = draw.choice(FOODS)
    begin = (
        f"One day in {draw.choice(('spring', 'summer', 'autumn', 'winter'))} {who.name} walked from {who.town} to "
        f"{host.town} to see {host.name}. On the way {_first(who)} bought some {gift}. "
        f"{_first(host)} opened the door and smiled."
    )
    finish = '"Welcome to {t}," said {h}, and they ate the {g} together.'
    right = finish.format(t=host.town, h=_first(host), g=gift)
    towns = [town.name for town in the_world().towns]
    wrong = (
        finish.format(t=_others(draw, towns, host.town)[0], h=_first(host), g=gift),
        finish.format(t=host.town, h=_first(host), g=_others(draw, FOODS, gift)[0]),
        finish.format(t=host.town, h=_first(who), g=gift),
    )
    return Tale(begin, right, wrong, (_first(who), _first(host)))


def _counting(draw: random.Random) -> Tale:
    who, thief = draw.sample(the_world().people, 2)
    food, start, gone = draw.choice(FOODS), draw.randint(5, 19), draw.randint(1, 4)
    feeling = draw.choice(_FEELINGS)
    begin = (
        f"{who.name} put {start} baskets of {food} on the table. In the night {thief.name} came and took {gone} of them. "
        f"In the morning {_first(who)} counted the baskets and was {feeling}."
    )
    finish = "Only {n} baskets of {f} were left, and {w} was {e}."
    right = finish.format(n=start - gone, f=food, w=_first(who), e=feeling)
    wrong = (
        finish.format(n=start + gone, f=food, w=_first(who), e=feeling),
        finish.format(n=start - gone, f=_others(draw, FOODS, food)[0], w=_first(who), e=feeling),
        finish.format(n=start - gone, f=food, w=_first(thief), e=feeling),
    )
    return Tale(begin, right, wrong, (_first(who), _first(thief)))


_KINDS = (_lost_and_found, _trade, _visit, _counting)


def tale(draw: random.Random) -> Tale:
    """One story of a random kind."""
    return draw.choice(_KINDS)(draw)
