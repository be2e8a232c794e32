"""The words of the small world, by class. No word belongs to two classes."""

from __future__ import annotations


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WOMEN = _split("Anna Clara Dora Emma Fay Grace Ida Jane Kate Lucy Mary Nora Rose Sara Tina Vera")
MEN = _split("Adam Ben Carl Dan Eric Fred Hugo Ivan Jack Karl Leo Max Ned Otto Paul Tom")
PEOPLE = tuple(name for pair in zip(WOMEN, MEN) for name in pair)
PLACES = _split(
    "kitchen garden hall cellar barn park forest library school market tower attic church shop station bakery "
    "harbour stable bedroom museum castle field meadow workshop"
)
OBJECTS = _split(
    "ball key book lamp coin hat cup spoon letter ring doll knife bottle candle rope brush drum flute hammer "
    "ribbon shell stone scarf mirror pen plate kite feather map glove bell vase whistle blanket mug clock towel "
    "button puzzle needle"
)
CONTAINERS = _split("box basket drawer bag bucket jar chest crate pot suitcase cupboard barrel")
COLOURS = _split("red blue green yellow black white brown pink purple grey golden silver")

GO = ("went", "walked", "ran", "hurried", "moved", "travelled", "rushed", "strolled")
TAKE = ("took", "grabbed", "found", "lifted", "collected", "fetched")
DROP = ("dropped", "left", "released", "abandoned")
PUT = ("put", "placed", "hid", "stored")
GIVE = ("gave", "handed", "passed", "offered")
REMOVE = ("pulled", "brought")
PAINT = ("painted", "coloured")
ACTS = _split(
    "sang danced laughed smiled slept cried rested whistled hummed jumped waited yawned sneezed coughed prayed "
    "stretched shouted whispered giggled nodded bowed clapped knelt sighed"
)
STATES = ("was", "were", "had", "belonged", "lay", "stood")
MANNERS = ("quietly", "loudly", "happily", "slowly", "again", "softly", "alone", "outside")
FIRSTLY = ("Then", "Later", "Next", "Soon", "Suddenly", "Afterwards", "Finally")
WEATHERS = ("sunny", "rainy", "cold", "windy", "warm", "cloudy", "quiet", "foggy")
TIMES = ("morning", "day", "evening", "night", "afternoon", "winter", "summer")
SCENERY = ("sky", "wind", "moon", "river", "road", "grass", "house", "town")
LOOKS = ("dark", "calm", "bright", "old", "wet", "beautiful", "grand", "dusty")
ANIMALS = ("dog", "cat", "bird", "horse", "duck", "fox", "cow", "wolf")
ANIMAL_ACTS = ("barked", "purred", "howled", "played", "drank", "ate", "hunted", "vanished")
PRONOUNS = ("He", "She", "he", "she")
FRAME = ("A", "The", "There", "It", "Where", "Who", "What", "Answer") + _split(
    "a the is did do has have to in of up down out and first last colour owns"
)

VERBS = GO + TAKE + DROP + PUT + GIVE + REMOVE + PAINT + ACTS + STATES + ANIMAL_ACTS
CLASSES = {
    "person": PEOPLE,
    "place": PLACES,
    "object": OBJECTS + CONTAINERS,
    "colour": COLOURS,
    "verb": VERBS,
}


def word_class(word: str) -> str:
    """Returns person | place | object | colour | verb | other; punctuation and SentencePiece's space sign are ignored."""
    bare = word.strip(" \u2581.,?:")
    return next((name for name, words in CLASSES.items() if bare in words), "other")


def vocabulary() -> tuple[str, ...]:
    """Returns all words of stories, sorted."""
    rest = MANNERS + FIRSTLY + WEATHERS + TIMES + SCENERY + LOOKS + ANIMALS + PRONOUNS + FRAME
    return tuple(sorted({word for words in CLASSES.values() for word in words} | set(rest)))
