"""The facts of the world: people, towns and objects, drawn once from a seed, and sentences that tell them.

Names are composed (first and last name are shared by several people), so a model must remember the pair, not a part of it.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

WORLD_SEED = 20261123

FIRST = """Mira Tobin Elsa Corin Nadia Felix Runa Osric Ivy Bram Celia Dorian Hetty Jonas Kaya Leif Maud Niko Orla Pavel
Quinn Rosa Silas Tessa Ulla Viggo Wren Xenia Yara Zeno""".split()
LAST = """Tolden Marsh Brack Fenwick Harrow Lund Pell Quarry Sable Thorne Umber Vale Winter Yarrow Ashby Crane Dunmore Elder
Frost Gable""".split()
TOWNS = """Aldermoor Brinwick Carrow Dunhaven Eastmere Farleigh Greywater Hollin Ivermouth Jasperton Kelbrook Larkfield Mossford
Norwell Oakridge Pinecross Quillon Redcliff Stonebridge Tarnby""".split()
RIVERS = "Ashe Bree Calder Dove Esk Fenn Glint Hale Isle Juno Kett Lune".split()
JOBS = """baker sailor teacher miller painter smith weaver doctor farmer tailor singer carpenter gardener fisher potter
clockmaker librarian beekeeper""".split()
FOODS = "bread soup apples cheese plums rice honey cake carrots beans pears fish".split()
COLOURS = "red blue green yellow white black purple orange silver brown".split()
PETS = "cat dog parrot rabbit goat pony turtle goose hedgehog owl".split()
TOOLS = "flute drum violin harp trumpet guitar piano whistle".split()
MONTHS = "January February March April May June July August September October November December".split()
THINGS = "lamp box key map coin rope cup book bell ring ladder clock basket hammer mirror kite".split()
MATERIALS = "wood iron glass clay copper stone silver wool paper bone".split()


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    job: str
    town: str
    food: str
    colour: str
    pet: str
    instrument: str
    month: str


@dataclass(frozen=True, slots=True)
class Town:
    name: str
    river: str
    craft: str
    treasure: str
    material: str


@dataclass(frozen=True, slots=True)
class World:
    people: tuple[Person, ...]
    towns: tuple[Town, ...]


@functools.cache
def the_world(n_people: int = 150) -> World:
    """The one world of `WORLD_SEED`."""
    draw = random.Random(WORLD_SEED)
    names = [f"{first} {last}" for first in FIRST for last in LAST]
    draw.shuffle(names)
    people = tuple(
        Person(
            name,
            draw.choice(JOBS),
            draw.choice(TOWNS),
            draw.choice(FOODS),
            draw.choice(COLOURS),
            draw.choice(PETS),
            draw.choice(TOOLS),
            draw.choice(MONTHS),
        )
        for name in names[:n_people]
    )
    towns = tuple(
        Town(name, draw.choice(RIVERS), draw.choice(JOBS), draw.choice(THINGS), draw.choice(MATERIALS))
        for name in TOWNS
    )
    return World(people, towns)


#: Sentences for each attribute of a person; {n} is the name, {v} the value.
PERSON_SAYS = {
    "job": ("{n} is a {v}.", "{n} works as a {v}.", "By trade {n} is a {v}.", "Everyone knows {n} the {v}."),
    "town": ("{n} lives in {v}.", "The home of {n} is in {v}.", "{n} has a house in {v}.", "You can find {n} in {v}."),
    "food": ("{n} likes to eat {v}.", "The favourite food of {n} is {v}.", "Nothing pleases {n} more than {v}."),
    "colour": ("{n} always wears {v}.", "The favourite colour of {n} is {v}.", "{n} painted the door {v}."),
    "pet": ("{n} has a {v}.", "{n} keeps a {v} at home.", "The pet of {n} is a {v}."),
    "instrument": ("{n} plays the {v}.", "In the evening {n} plays the {v}.", "{n} learned the {v} as a child."),
    "month": ("{n} was born in {v}.", "The birthday of {n} is in {v}.", "{n} gets a year older every {v}."),
}
TOWN_SAYS = {
    "river": ("{n} lies on the river {v}.", "The river {v} runs through {n}.", "In {n} boats sail on the {v}."),
    "craft": ("{n} is known for its {v}s.", "Every {v} wants to work in {n}.", "The best {v} of all lives in {n}."),
    "treasure": ("In the hall of {n} stands a famous {v}.", "{n} is proud of its old {v}."),
    "material": ("The houses of {n} are made of {v}.", "In {n} they build with {v}."),
}
PERSON_VALUES = {
    "job": JOBS, "town": TOWNS, "food": FOODS, "colour": COLOURS, "pet": PETS, "instrument": TOOLS, "month": MONTHS,
}  # fmt: skip
TOWN_VALUES = {"river": RIVERS, "craft": JOBS, "treasure": THINGS, "material": MATERIALS}
PERSON_ASKS = {
    "job": ("What is the job of {n}?", "What does {n} work as?"),
    "town": ("Where does {n} live?", "In which town is the home of {n}?"),
    "food": ("What does {n} like to eat?", "What is the favourite food of {n}?"),
    "colour": ("Which colour does {n} wear?", "What is the favourite colour of {n}?"),
    "pet": ("Which pet does {n} have?", "What animal does {n} keep?"),
    "instrument": ("Which instrument does {n} play?", "What does {n} play in the evening?"),
    "month": ("When was {n} born?", "In which month is the birthday of {n}?"),
}
TOWN_ASKS = {
    "river": ("Which river runs through {n}?", "On which river does {n} lie?"),
    "craft": ("Which craft is {n} known for?",),
    "treasure": ("What stands in the hall of {n}?",),
    "material": ("What are the houses of {n} made of?",),
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that can be told and asked: the subject's name, which attribute, the true value, all values it could have."""

    subject: str
    attribute: str
    value: str
    values: tuple[str, ...]
    says: tuple[str, ...]
    asks: tuple[str, ...]

    def told(self, draw: random.Random) -> str:
        return draw.choice(self.says).format(n=self.subject, v=self.value)

    def asked(self, draw: random.Random) -> str:
        return draw.choice(self.asks).format(n=self.subject)


@functools.cache
def facts_of() -> dict[str, tuple[Fact, ...]]:
    """Every fact, by the name of its subject."""
    world, out = the_world(), {}
    for person in world.people:
        out[person.name] = tuple(
            Fact(person.name, a, getattr(person, a), tuple(PERSON_VALUES[a]), PERSON_SAYS[a], PERSON_ASKS[a])
            for a in PERSON_SAYS
        )
    for town in world.towns:
        out[town.name] = tuple(
            Fact(town.name, a, getattr(town, a), tuple(TOWN_VALUES[a]), TOWN_SAYS[a], TOWN_ASKS[a]) for a in TOWN_SAYS
        )
    return out


def portrait(draw: random.Random) -> str:
    """A paragraph that tells some facts of one subject, or of a person and the town they live in."""
    subject = draw.choice(list(facts_of()))
    facts = list(facts_of()[subject])
    draw.shuffle(facts)
    told = [fact.told(draw) for fact in facts[: draw.randint(3, len(facts))]]
    home = next((fact.value for fact in facts if fact.attribute == "town"), None)
    if home and draw.random() < 0.4:
        told += [fact.told(draw) for fact in draw.sample(facts_of()[home], 2)]
    return " ".join(told)
