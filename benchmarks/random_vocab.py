"""Generate a vocabulary in XTTS's format for random checkpoints. Tests and benchmarks must not download the real one.

It is a byte-pair encoding with XTTS's special tokens. It is trained on invented words in the scripts that XTTS reads
(Chinese, Japanese and Korean are romanised first) and on sentences in its languages, so that a text has about as many
tokens as with the real vocabulary. The result is the same every time.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "pl", "tr", "ru", "cs", "nl", "ar", "zh-cn", "ja", "hu", "ko", "hi")
SPECIAL_TOKENS = ("[STOP]", "[UNK]", "[SPACE]", "[START]", *(f"[{language}]" for language in LANGUAGES))

SENTENCES = """
all human beings are born free and equal in dignity and rights. they are endowed with reason and conscience and should
act towards one another in a spirit of brotherhood. this is what we have when you would say that it was there with his
or her time from which one could not know how much more there will be about them into the world
alle menschen sind frei und gleich an würde und rechten geboren. sie sind mit vernunft und gewissen begabt und sollen
einander im geist der brüderlichkeit begegnen.
tous les êtres humains naissent libres et égaux en dignité et en droits. ils sont doués de raison et de conscience et
doivent agir les uns envers les autres dans un esprit de fraternité.
todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y conciencia.
tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. essi sono dotati di ragione e di coscienza.
todos os seres humanos nascem livres e iguais em dignidade e em direitos. dotados de razão e de consciência.
wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.
bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.
все люди рождаются свободными и равными в своем достоинстве и правах. они наделены разумом и совестью.
všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv.
alle mensen worden vrij en gelijk in waardigheid en rechten geboren.
يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق وقد وهبوا عقلًا وضميرًا.
ren2ren2 sheng1 er2 zi4 you2, zai4 zun1 yan2 he2 quan2 li4 shang4 yi1 lv4 ping2 deng3.
subete no ningen wa, umarenagara ni shite jiyuu de ari, katsu, songen to kenri to ni tsuite byoudou de aru.
minden emberi lény szabadon születik és egyenlő méltósága és joga van.
modeun inganeun taeeonal ttaebuteo jayuroumyeo geu joneomgwa gwonrie isseo dongdeunghada.
सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।
"""
SENTENCE_WEIGHT = 40
"""How often the sentences are repeated, so that their words become tokens before invented words do."""

CONSONANTS_AND_VOWELS = (
    ("bcdfghjklmnpqrstvwxyz", "aeiou"),
    ("bcdfghjklmnprstvzßçñşğćčďłńňřśšťźżž", "aeiouyàâäáæãèéêëěęąíìîïıóòôöõőøœùúûüűůýÿ"),
    ("бвгджзйклмнпрстфхцчшщъь", "аеёиоуыэюя"),
    ("ءآأؤإئابةتثجحخدذرزسشصضطظعغفقكلمنهوىي", "َُِّْاويً"),
    ("कखगघचछजझटठडढणतथदधनपफबभमयरलवशषसहड़ढ़ज़क़ख़ग़फ़", "ािीुूृेैोौंँः़्अआइईउऊऋएऐओऔ"),
)
SIGNS = "0123456789 . , ; : ! ? ' ( ) - – — … « » ¿ ¡ । ، ؛ ؟ / * + = _ ’ ‘ “ ”"
INVENTED_WORDS = 6000


def write_vocab(path: Path, size: int = 6681) -> None:
    """Write a vocabulary of exactly `size` tokens; the default is the size of XTTS v2's."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS),
        limit_alphabet=size - len(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_words(), trainer)
    if tokenizer.get_vocab_size() != size:
        raise ValueError(f"a vocabulary of {size} tokens is not possible, only one of {tokenizer.get_vocab_size()}")
    tokenizer.save(str(path))


def _words() -> Iterator[str]:
    """Yield the training texts."""
    yield from [SENTENCES] * SENTENCE_WEIGHT
    yield SIGNS
    chance = random.Random(0)
    for consonants, vowels in CONSONANTS_AND_VOWELS:
        yield f"{' '.join(consonants)} {' '.join(vowels)}"
        for _ in range(INVENTED_WORDS):
            yield "".join(chance.choice(consonants) + chance.choice(vowels) for _ in range(3))
