"""Classes of words that captions are steered to: colours, places, sentiments.

The lists are those of xl-vlms (https://github.com/mshukor/xl-vlms, `src/datasets/constants.py`), each word once, under its
licence:

MIT License. Copyright (c) 2024 mshukor. Permission is hereby granted, free of charge, to any person obtaining a copy of this
software and associated documentation files (the "Software"), to deal in the Software without restriction, including without
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to
permit persons to whom the Software is furnished to do so, subject to the following conditions: The above copyright notice and
this permission notice shall be included in all copies or substantial portions of the Software. THE SOFTWARE IS PROVIDED "AS
IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS
FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH
THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


COLORS = _words(
    "red, blue, green, yellow, orange, purple, pink, brown, black, white, gray, cyan, magenta, turquoise, "
    "indigo, maroon, beige, gold, silver, olive, lavender, navy, teal, peach, violet, ivory, charcoal, "
    "amber, emerald, coral"
)
PLACES = _words(
    "beach, mountain, forest, desert, city, village, river, ocean, park, island, countryside, jungle, "
    "cave, waterfall, lake, garden, market, museum, restaurant, airport, street, cinema, theater, school, "
    "library, stadium, bridge, station, bus stop, hotel, zoo, church, temple, mall, hospital, playground, "
    "harbor, factory, tower, university, kitchen, field, room, hill, store, cabinet, shop, place"
)
POSITIVE_SENTIMENTS = _words(
    "smile, happy, laugh, grin, joy, excited, cheerful, delighted, content, love, relaxed, amused, "
    "ecstatic, proud, relief, contentment, admiration, playful, elated, optimistic, triumphant, pleased, "
    "grateful, hope, hopeful, ambition, ambitious, freedom, free, trust, trustworthy, inspiration, "
    "inspirational, faith, faithful, perseverance, persevering, serenity, serene, wisdom, wise, "
    "acceptance, accepting, hopefulness, liberation, liberated, tranquility, tranquil, purposeful, "
    "fearlessness, fearless, imagination, imaginative"
)
NEGATIVE_SENTIMENTS = _words(
    "sad, tears, frown, crying, anger, worried, disappointed, upset, grief, serious, anxious, fear, "
    "confusion, disgust, grumpy, frustrated, mournful, resentful, gloomy, insecure, awkward, reluctant, "
    "disheartened, jealous, melancholy, ashamed, loneliness, lonely, despair, despairing, hate, bored, "
    "nightmare, nightmarish, doubt, doubtful, regret, regretful, alienation, alienated, emptiness, "
    "vulnerability, vulnerable, betrayal, betrayed, weakness, chaotic, conflict, conflicted, yearning, "
    "ambivalence, ambivalent"
)
SENTIMENTS = tuple(
    dict.fromkeys(
        (
            *POSITIVE_SENTIMENTS,
            *NEGATIVE_SENTIMENTS,
            *_words(
                "emotion, facial expression, surprised, blushing, smirk, nervous, concentration, pensive, thoughtful, "
                "determined, bashful, intense, curious, skeptical, sympathetic, bewildered, indifferent, solitude, "
                "solitary, desire, desirous, powerful, mystery, mysterious, identity, identifiable, memorable, "
                "dreamlike, illusion, illusory, destiny, destined, karma, karmic, fated, realistic, transformation, "
                "transformative, introspection, introspective"
            ),
        )
    )
)
