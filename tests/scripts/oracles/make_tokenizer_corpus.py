#!/usr/bin/env python3
"""Write the texts that the tokenizer is tested with.

    make_tokenizer_corpus.py [--out tests/goldens/tokenizer]

corpus.jsonl: one JSON string per line, at least 10,400 different texts of about 35 bytes: many
scripts, prose, code, runs of spaces, newlines and tabs, markup, emoji, combining marks, the text
of control tokens, literal ▁, control characters, numbers, addresses, random mixtures, and code
points that no font shows. Invisible characters are written as \\u escapes.
invalid.json: byte strings that are not UTF-8, in hex, and what is wrong with each of them.

The random stream is fixed. The prose is the King James Bible (public domain), printed by the
command `bible` of Debian's package bible-kjv. Everything else is generated here from the
hand-written samples in tokenizer_samples.py.
"""
import argparse
import json
import random
import subprocess
import unicodedata
from pathlib import Path

from tokenizer_samples import CODE, CONTROL_WORDS, EMOJI, NAMES, SENTENCES, TAGS

HERE = Path(__file__).resolve().parent
rng = random.Random(20240627)

PASSAGES = ["gen1:1-31", "gen3:1-24", "ex20:1-26", "ruth1:1-22", "1ki8:1-30", "job38:1-41", "ps1:1-6", "ps23:1-6",
            "ps119:1-80", "prov1:1-33", "prov15:1-33", "eccl3:1-22", "song2:1-17", "is40:1-31", "jer31:1-34",
            "dan3:1-30", "jonah1:1-17", "mt5:1-48", "mk4:1-41", "lk2:1-52", "jn1:1-51", "acts2:1-47", "rom8:1-39",
            "1cor13:1-13", "heb11:1-40", "jas1:1-27", "rev1:1-20", "rev22:1-21"]

# first and last code point of the letters of each script
SCRIPTS = [
    (0xC0, 0xFF), (0x100, 0x17F), (0x180, 0x24F), (0x250, 0x2AF), (0x370, 0x3FF), (0x400, 0x45F), (0x460, 0x52F),
    (0x531, 0x58A), (0x5D0, 0x5EA), (0x620, 0x65F), (0x700, 0x74A), (0x780, 0x7B1), (0x7C0, 0x7FA), (0x904, 0x94D),
    (0x985, 0x9CD), (0xA05, 0xA4D), (0xA85, 0xACD), (0xB05, 0xB4D), (0xB83, 0xBCD), (0xC05, 0xC4D), (0xC85, 0xCCD),
    (0xD05, 0xD4D), (0xD82, 0xDDF), (0xE01, 0xE4E), (0xE81, 0xECD), (0xF40, 0xFBC), (0x1000, 0x104F), (0x10A0, 0x10FF),
    (0x1100, 0x11FF), (0x1200, 0x135A), (0x13A0, 0x13F4), (0x1401, 0x15FF), (0x1680, 0x169C), (0x16A0, 0x16EA),
    (0x1700, 0x1714), (0x1780, 0x17DD), (0x1820, 0x1877), (0x1E00, 0x1EFF), (0x1F00, 0x1FFE), (0x2000, 0x206F),
    (0x2070, 0x209C), (0x20A0, 0x20BF), (0x2100, 0x214F), (0x2190, 0x21FF), (0x2200, 0x22FF), (0x2300, 0x23FF),
    (0x2460, 0x24FF), (0x2500, 0x25FF), (0x2600, 0x26FF), (0x2700, 0x27BF), (0x2800, 0x28FF), (0x2C00, 0x2C5E),
    (0x2D30, 0x2D67), (0x2E80, 0x2FDF), (0x3000, 0x303F), (0x3041, 0x309F), (0x30A0, 0x30FF), (0x3105, 0x312F),
    (0x3131, 0x318E), (0x3200, 0x33FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x4E00, 0x62FF), (0xA000, 0xA48C),
    (0xA720, 0xA7BF), (0xAC00, 0xD7A3), (0xAC00, 0xB400), (0xF900, 0xFAD9), (0xFB00, 0xFB4F), (0xFB50, 0xFDFF),
    (0xFE10, 0xFE6F), (0xFF01, 0xFFEE), (0x10000, 0x100FA), (0x10330, 0x1034A), (0x10400, 0x1044F), (0x12000, 0x12399),
    (0x13000, 0x1342E), (0x1D400, 0x1D7FF), (0x1F300, 0x1F64F), (0x1F680, 0x1F6FF), (0x1F900, 0x1F9FF),
    (0x20000, 0x2A6DF), (0x30000, 0x3134A),
]


def pick(low, high):
    """A code point of the range that is not a surrogate."""
    while True:
        c = rng.randint(low, high)
        if not 0xD800 <= c <= 0xDFFF:
            return chr(c)


def cut(text, least=1):
    """A random substring."""
    start = rng.randrange(len(text))
    return text[start:start + rng.randint(least, 40)]


def word():
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 9)))


def recase(text):
    return rng.choice([str.upper, str.lower, str.title, str.swapcase])(text)


def prose():
    verses = []
    for passage in PASSAGES:
        lines = subprocess.run(["bible", "-f", passage], capture_output=True, text=True, check=True).stdout
        verses += [line.split(" ", 1)[1] for line in lines.splitlines() if " " in line]
    yield from rng.sample(verses, 500)
    for _ in range(60):
        start = rng.randrange(len(verses) - 8)
        yield "\n".join(verses[start:start + rng.randint(2, 8)])
    for _ in range(900):
        words = rng.choice(verses).split()
        start = rng.randrange(len(words))
        yield rng.choice(["", " "]) + " ".join(words[start:start + rng.randint(1, 8)]) + rng.choice(["", "", " "])
    for _ in range(350):
        yield recase(cut(rng.choice(verses), 5))
    for _ in range(350):
        yield cut(rng.choice(verses), 2)


def languages():
    texts = [line.split("|", 1)[1] for line in SENTENCES]
    yield from texts
    for text in texts:
        for _ in range(9):
            yield cut(text)
        yield unicodedata.normalize("NFD", text)
        yield rng.choice(["  ", "\n", "\t", " "]) + cut(text, 5) + rng.choice([" ", "\n\n", "\t"])
    for _ in range(500):
        yield rng.choice([" ", "", "/", " - ", "。", "\n"]).join(cut(rng.choice(texts), 3)[:15] for _ in range(3))


def scripts():
    for low, high in SCRIPTS:
        for _ in range(12):
            words = ("".join(pick(low, high) for _ in range(rng.randint(1, 6))) for _ in range(rng.randint(1, 3)))
            yield rng.choice([" ", "  ", ""]).join(words)
        yield "".join(pick(low, high) for _ in range(8)) + word()


def code():
    strings = ["hello, world", "", "it's", "a\\tb", "naïve café", "日本", "%s: %d", "TODO(x): fix", "🙂"]
    for _ in range(30):
        for _, template in CODE:
            a, b = rng.sample(NAMES, 2)
            text = template.format(a=a, b=b, n=rng.choice([0, 1, 7, 42, 255, 4096]), m=rng.randrange(100),
                                   s=rng.choice(strings))
            if rng.random() < 0.2:
                text = text.replace("    ", "\t")
            if rng.random() < 0.2:
                text = text.replace("\n", "\r\n")
            if rng.random() < 0.2:
                text = "\n".join("        " + line for line in text.split("\n"))
            yield text if rng.random() < 0.6 else cut(text, 12) + cut(text, 12)


def whitespace():
    for mark in (" ", "\n", "\t", "\r\n", "\u00a0", "\u3000"):
        for n in range(1, 41):
            yield mark * n
            if n < 36 or mark == " ":
                yield f"{mark * n}{word()}"
                yield f"{word()}{mark * n}{word()}"
            if n % 3 == 0:
                yield f"{word()}.{mark * n}"
    for n in range(1, 34):
        yield f"\n{' ' * n}return x;\n{' ' * (n // 2)}}}"
        yield f"{' ' * n}\n{' ' * n}\n"
        yield f"{word()} {chr(9) * n} {word()}"
        yield f"{word()}{' ' * n}\t{word()}{chr(10) * n}{word()}"
    for _ in range(400):
        yield "".join(rng.choice([" ", " ", "  ", "\n", "\n\n", "\t", "\t\t", "\r", "\v", "\f", "\u2003", "\u200b",
                                  "\u2028", "\x85", word(), "."]) for _ in range(rng.randint(2, 14)))


def markup():
    for tag in TAGS:
        for text in (f"<{tag}>", f"</{tag}>", f"<{tag}/>", f"<{tag} >", f"<{tag}", f"{tag}>", f" <{tag}> ", f"<<{tag}>>",
                     f"<{tag}>{word()}</{tag}>", f"<{tag} class='{word()}'>", f"<{tag}>\n  <{tag}>  </{tag}>\n",
                     f"<{tag.upper()}>"):
            yield text
    for _ in range(350):
        yield "".join(rng.choice([f"<{rng.choice(TAGS)}>", f"</{rng.choice(TAGS)}>", word(), " ", "\n", "&nbsp;", "&#39;"])
                      for _ in range(rng.randint(2, 9)))


def emoji():
    for e in EMOJI:
        yield e
        yield f"{word()} {e}{e} {word()}{e}"
        yield e[:-1] if len(e) > 1 else e * 3
    for _ in range(300):
        yield rng.choice(["", " "]).join(rng.choice(EMOJI) for _ in range(rng.randint(2, 5)))


def combining():
    bases = "aeiouncsyzAEIOUäöüéñçαωиеיअก가"
    for _ in range(250):
        text = "".join(rng.choice(bases) + "".join(pick(0x300, 0x36F) for _ in range(rng.choice([0, 1, 1, 2, 5])))
                       for _ in range(rng.randint(1, 6)))
        yield text
        yield unicodedata.normalize("NFC", text)
    for text in ("\u0301", " \u0301a", "a\u0301", "\u00e1", "\u212b \u00c5 A\u030a", "\u1112\u1161\u11ab 한", "ﬁ fi ﬀ",
                 "\u0928\u093c \u0929", "e\u0323\u0302 \u1ec7", "\u202eabc\u202c", "a\u200db", "\ufe0f", "\u20dd"):
        yield text


def control_words():
    for w in CONTROL_WORDS:
        for text in (w, f" {w}", f"{w} ", f"{w}{w}", f"x{w}y", f"{w}\n", f"  {w}  ", w[:-1], w[1:], w.upper()):
            yield text
    for role in ("user", "model", "system", "assistant", ""):
        for _ in range(15):
            yield (f"<start_of_turn>{role}\n{word()} {rng.choice(NAMES)}<end_of_turn>\n<start_of_turn>model\n")
            yield f"<bos><start_of_turn>{role}\n{word()}?<end_of_turn>"
    for _ in range(550):
        yield "".join(rng.choice([*CONTROL_WORDS, word(), " ", "\n", "  ", "<", ">", "é"]) for _ in range(rng.randint(2, 6)))


def meta_space():
    for n in range(1, 36):
        yield "▁" * n
        yield f"{word()}{'▁' * n}{word()}"
        yield f"{'▁' * (n // 2)}{' ' * n}{word()}"
    for _ in range(200):
        yield "".join(rng.choice(["▁", " ", "▁▁", "  ", "_", word(), "\n", "▂", "<h1>"]) for _ in range(rng.randint(2, 9)))


def control_characters():
    for c in [*range(0x20), 0x7F, *range(0x80, 0xA0), 0xAD, *range(0x200B, 0x2010), *range(0x2028, 0x202F), 0x2060, 0xFEFF]:
        yield chr(c)
        yield f"{word()}{chr(c)}{word()}"
        yield f" {chr(c)}{chr(c)} "
    for _ in range(150):
        yield "".join(chr(rng.randrange(0x20)) if rng.random() < 0.4 else rng.choice("ab \n") for _ in range(rng.randint(1, 12)))


def numbers():
    for n in (0, 1, 9, 10, 99, 100, 1234, 2024, 65536, 10**6, 10**12, 2**64, 10**30):
        yield from (f"{n}", f"-{n}", f"{n:,}", f" {n}", f"{n}.{n}", f"0x{n:x}", f"${n}", f"{n}%", f"{n:e}")
    for _ in range(150):
        yield f"{rng.random():.{rng.randint(1, 15)}f}"
        yield f"20{rng.randrange(100):02}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}T{rng.randrange(24):02}:{rng.randrange(60):02}Z"
        yield f"https://www.{word()}.{rng.choice(['com', 'org', 'de', 'co.jp'])}/{word()}?{word()}={rng.randrange(999)}&q=%20{word()}#s{rng.randrange(9)}"
        yield f"{word()}.{word()}@{word()}.net"
        yield f"{rng.choice(['/usr/', 'C:' + chr(92), '~/', '../'])}{word()}/{word()}.{rng.choice(['rs', 'txt', 'tar.gz'])}"
        yield f"{rng.getrandbits(128):032x}"
        yield f"{word()} = {rng.randrange(10**6)} + {rng.randrange(100)}*{word()}"
    for digits in ("٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "0123456789", "¹²³⁴½⅓", "一二三四五六七八九十"):
        yield digits
        yield digits[3:6] + "," + digits[:3]


def unassigned():
    for plane in range(17):
        yield chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF)
    for c in (0xFFFD, 0xFFFC, 0xE000, 0xF8FF, 0xF0000, 0x10FFFD, 0xFDD0, 0xFDEF, 0x378, 0xD7FF, 0xE0001, 0xE0041, 0x10FFFF):
        yield chr(c)
        yield f"a{chr(c)}b {chr(c)}"
        yield chr(c) * 3
    for _ in range(250):
        yield "".join(pick(*rng.choice([(0x80, 0xFFFF), (0x10000, 0x10FFFF), (0xE000, 0xF8FF), (0x20, 0x7E)]))
                      for _ in range(rng.randint(1, 8)))


def single_characters():
    for c in [*range(0x20, 0x7F), *range(0xA0, 0x180)]:
        yield chr(c)
    for _ in range(500):
        yield pick(0x180, rng.choice([0x800, 0x3000, 0xFFFF, 0x1FFFF]))
    for a in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~":
        yield from (a * 2, a * 3, a * 16, f" {a}", f"{a} ", f"a{a}b", f"{a}{word()}{a}")


def mixtures():
    texts = [line.split("|", 1)[1] for line in SENTENCES]
    parts = [lambda: cut(rng.choice(texts))[:12], lambda: rng.choice(EMOJI), lambda: rng.choice(CONTROL_WORDS), word,
             lambda: " " * rng.randint(1, 5), lambda: "\n" * rng.randint(1, 3), lambda: str(rng.randrange(10**5)),
             lambda: pick(*rng.choice(SCRIPTS)), lambda: rng.choice("!?.,;:()[]{}<>/\\|@#$%^&*-+=~`'\"▁\t"),
             lambda: f"<{rng.choice(TAGS)}>", lambda: chr(rng.randrange(0x110000 - 0xE000) + 0xE000)]
    for _ in range(700):
        yield "".join(rng.choice(parts)() for _ in range(rng.randint(2, 8)))
    for _ in range(300):
        yield "".join(chr(rng.randint(0x20, 0x7E)) for _ in range(rng.randint(1, 40)))
    for _ in range(150):
        yield rng.choice("ab <\n▁é字") * rng.randint(2, 60)
    for n in (33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 1000):
        yield "a" * n
        yield " " * n
        yield "".join(word() + " " for _ in range(n // 6))


SECTIONS = [prose, languages, scripts, code, whitespace, markup, emoji, combining, control_words, meta_space,
            control_characters, numbers, unassigned, single_characters, mixtures]

INVALID = {
    "80": "a continuation byte alone", "bf41": "a continuation byte before a letter", "6180": "a continuation byte at the end",
    "c3": "two-byte sequence cut short", "6141c3": "two-byte sequence cut short after letters", "c341": "second byte is a letter",
    "e282": "three-byte sequence cut short", "e28241": "third byte is a letter", "e2": "three-byte sequence, first byte only",
    "f09f98": "four-byte sequence cut short", "f09f9841": "fourth byte is a letter", "f09f": "four-byte sequence, half",
    "c080": "overlong NUL", "c1bf": "overlong U+007F", "e08080": "overlong NUL in three bytes", "e09fbf": "overlong U+07FF",
    "f0808080": "overlong NUL in four bytes", "f08fbfbf": "overlong U+FFFF", "eda080": "surrogate U+D800",
    "edbfbf": "surrogate U+DFFF", "eda0bdedb880": "a surrogate pair (CESU-8)", "f4908080": "U+110000, past the last code point",
    "f7bfbfbf": "four-byte lead past the range", "f888808080": "five-byte lead", "fc8480808080": "six-byte lead",
    "fe": "byte FE", "ff": "byte FF", "fffe4100": "UTF-16 with a byte order mark", "61ff62": "byte FF between letters",
    "e2968180": "▁ and a stray continuation byte", "3c626f733eff": "<bos> and byte FF", "ff3c656e645f6f665f7475726e3e": "byte FF and <end_of_turn>",
    "2020c32020": "a cut sequence between spaces", "f09f9880f09f98": "an emoji and a cut emoji", "0080": "NUL and a continuation byte",
}


def invisible(c):
    c = ord(c)
    return (c < 0x20 or 0x7F <= c < 0xA1 or c == 0xAD or 0x300 <= c < 0x370 or 0x2000 <= c < 0x2010 or 0x2028 <= c < 0x2030
            or 0x205F <= c < 0x2070 or 0x20D0 <= c < 0x2100 or c == 0x3000 or 0xE000 <= c < 0xF900 or 0xFDD0 <= c < 0xFDF0
            or 0xFE00 <= c < 0xFE10 or c == 0xFEFF or 0xFFF0 <= c < 0x10000 or c >= 0xE0000 or c & 0xFFFE == 0xFFFE)


def to_json(text):
    literal = json.dumps(text, ensure_ascii=False)
    return "".join(json.dumps(c)[1:-1] if invisible(c) else c for c in literal)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--out", type=Path, default=HERE / "../../goldens/tokenizer")
    out = args.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    texts = {"": "empty"}
    for section in SECTIONS:
        before = len(texts)
        for text in section():
            texts.setdefault(text, section.__name__)
        print(f"{section.__name__:20} {len(texts) - before}")
    lines = [to_json(text) for text in texts]
    assert [json.loads(line) for line in lines] == list(texts)
    data = ("\n".join(lines) + "\n").encode()
    assert len(texts) >= 10_400 and len(data) < 900_000, (len(texts), len(data))
    (out / "corpus.jsonl").write_bytes(data)
    for bad in INVALID:
        try:
            bytes.fromhex(bad).decode()
            raise SystemExit(f"{bad} is valid UTF-8")
        except UnicodeDecodeError:
            pass
    (out / "invalid.json").write_text(json.dumps(INVALID, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(texts)} texts, {len(data)} bytes, {sum(len(t.encode()) for t in texts) / len(texts):.1f} bytes a text")


if __name__ == "__main__":
    main()
