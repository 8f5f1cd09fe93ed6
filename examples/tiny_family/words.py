"""The language skill: English spelling rules and Korean particles and verb endings."""

import random

CONSONANTS = "bcdfghjklmnpqrstvwz"
VOWELS = "aeiou"
STEMS = (
    "가나다라마바사아자차카타파하고노도로모보소오조초코토포호구누두루무부수우주추쿠투푸후"
    "강산밥물책집문손발눈입말길돌별달불풀잔칼컵공콩종창방상장병성동몽북국죽목학"
)
PARTICLES = {
    "주제": ("은", "는"),
    "주어": ("이", "가"),
    "목적": ("을", "를"),
    "함께": ("과", "와"),
}
VERBS = (
    "갈날달말발살잘잡막남참닦골놀돌몰볼솔속녹돋뽑걸널덜벌설절접먹넘꺾울물불줄죽묶늘들끌"
)
BRIGHT = (0, 8)  # the vowels ㅏ and ㅗ among the 21 of a Hangul syllable
ENDINGS = {"과거": ("았다", "었다"), "명령": ("아라", "어라"), "요청": ("아요", "어요")}

Draft = tuple[str, str, str, list[str]]


def has_final_consonant(syllable: str) -> bool:
    """Return whether a Hangul syllable is closed."""
    return (ord(syllable) - 0xAC00) % 28 > 0


def has_bright_vowel(syllable: str) -> bool:
    """Return whether a Hangul syllable takes the ㅏ form of an ending."""
    return (ord(syllable) - 0xAC00) // 28 % 21 in BRIGHT


def pair_draft(
    rng: random.Random, word: str, table: dict[str, tuple[str, str]], second: bool
) -> Draft:
    """Ask which form of an ending fits; two wrong choices are of another ending."""
    name, other = rng.sample(sorted(table), 2)
    right, wrong = table[name] if not second else table[name][::-1]
    return word, f"{name} {word}+", right, [wrong, *table[other]]


def particle(rng: random.Random) -> Draft:
    """Ask for the particle of a two-syllable noun."""
    word = rng.choice(STEMS) + rng.choice(STEMS)
    return pair_draft(rng, word, PARTICLES, not has_final_consonant(word[-1]))


def ending(rng: random.Random) -> Draft:
    """Ask for the ending of a verb stem, by vowel harmony."""
    word = rng.choice(STEMS) + rng.choice(VERBS)
    return pair_draft(rng, word, ENDINGS, not has_bright_vowel(word[-1]))


def stem(rng: random.Random, final: str) -> str:
    """Return an invented English stem with the given end."""
    body = rng.choice(CONSONANTS) + rng.choice(VOWELS)
    return rng.choice(["", rng.choice(CONSONANTS) + rng.choice(VOWELS)]) + body + final


def suffix_draft(rng: random.Random, name: str, ends: dict[str, list[str]]) -> Draft:
    """Ask for the spelling of a suffix, which the end of the stem decides."""
    right = rng.choice(sorted(ends))
    word = stem(rng, rng.choice(ends[right]))
    return word, f"{name} {word}+", right, [x for x in sorted(ends) if x != right]


def plural(rng: random.Random) -> Draft:
    """Ask for the plural ending of an invented noun."""
    ends = {
        "s": ["b", "d", "g", "k", "m", "n", "p", "t", "l", "r"],
        "es": ["x", "s", "ch", "sh", "z"],
        "ies": ["dy", "ty", "ny", "ly", "ry"],
        "ves": ["lf", "af", "ef", "if"],
    }
    return suffix_draft(rng, "plural", ends)


def past(rng: random.Random) -> Draft:
    """Ask for the past ending of an invented verb."""
    ends = {
        "ed": ["lk", "mp", "st", "nd", "rn", "sh", "ck"],
        "d": ["ke", "ve", "pe", "le", "se"],
        "ied": ["dy", "ty", "ny", "ly", "ry"],
        "ked": ["ic", "ac", "oc"],
    }
    return suffix_draft(rng, "past", ends)


WORD_SUBSKILLS = {f.__name__: f for f in (particle, ending, plural, past)}
