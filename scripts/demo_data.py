"""Seeded training and held-out examples for the demo adapters on SmolLM2.

No data set is used: every sentence is put together here from word lists and templates. The
held-out lists share no template and no key word with the training lists, so that the figures in
demo/smollm2/README.md say what an adapter learned and not what it remembers.
"""
import random
import re

# --- sentiment: reviews and their label ------------------------------------------------------

TRAIN_NOUNS = ["soup", "pizza", "waiter", "room", "bed", "breakfast", "phone", "battery", "film",
               "plot", "music", "driver", "garden", "price", "screen", "coffee", "staff", "view"]
HELD_NOUNS = ["salad", "receptionist", "shower", "laptop", "keyboard", "novel", "guide", "boat",
              "cake", "pool"]
TRAIN_GOOD = ["great", "delicious", "friendly", "wonderful", "excellent", "perfect", "lovely",
              "fantastic", "beautiful", "amazing", "very good", "brilliant"]
HELD_GOOD = ["superb", "charming", "outstanding", "delightful", "impressive", "flawless"]
TRAIN_BAD = ["terrible", "rude", "awful", "dirty", "broken", "horrible", "very bad", "cold",
             "disgusting", "slow", "boring", "far too expensive"]
HELD_BAD = ["dreadful", "filthy", "unbearable", "disappointing", "useless", "appalling"]

TRAIN_FORMS = ["The {n} was {a}.", "The {n} was {a} and the {m} was {b}.",
               "{A} {n}, {b} {m}.", "My {n} is {a}.", "What a {a} {n}! The {m} was {b} too.",
               "The {n} seemed {a} to me, and the {m} was {b}."]
TRAIN_GOOD_FORMS = ["I love this {n}.", "The {n} was {a}, I would come back.",
                    "We enjoyed the {n} a lot.", "Thank you, the {n} made my day.",
                    "The {n} was not {z} at all, it was {a}."]
TRAIN_BAD_FORMS = ["I hate this {n}.", "The {n} was {a}, I want my money back.",
                   "We did not enjoy the {n}.", "Never again, the {n} ruined my day.",
                   "The {n} was not {z} at all, it was {a}."]
HELD_FORMS = ["We found the {n} {a}.", "Honestly, the {n} and the {m} were both {a}.",
              "I must say that the {m} was {b} and also the {n} was quite {a}."]
HELD_GOOD_FORMS = ["Everyone should try the {n} here, simply {a}!",
                   "I was so happy with the {n} that I told all my friends."]
HELD_BAD_FORMS = ["Nobody should have to put up with such a {a} {n}.",
                  "I was so angry about the {n} that I complained to the manager."]


def review(rng, good, words):
    nouns, pos, neg, forms, good_forms, bad_forms = words
    n, m = rng.sample(nouns, 2)
    a, b = rng.sample(pos if good else neg, 2)
    z = rng.choice(neg if good else pos)
    form = rng.choice(forms + (good_forms if good else bad_forms))
    return form.format(n=n, m=m, a=a, b=b, z=z, A=a[:1].upper() + a[1:])


def reviews(seed, count, held_out):
    """count pairs (text, "positive" | "negative"), both labels equally often, all different."""
    words = ((HELD_NOUNS, HELD_GOOD, HELD_BAD, HELD_FORMS, HELD_GOOD_FORMS, HELD_BAD_FORMS)
             if held_out else
             (TRAIN_NOUNS, TRAIN_GOOD, TRAIN_BAD, TRAIN_FORMS, TRAIN_GOOD_FORMS,
              TRAIN_BAD_FORMS))
    rng, seen, out = random.Random(seed), set(), []
    while len(out) < count:
        good = len(out) % 2 == 0
        text = review(rng, good, words)
        if text not in seen:
            seen.add(text)
            out.append((text, "positive" if good else "negative"))
    return out


def sentiment_answer(label):
    return '{"sentiment": "%s"}' % label


# --- pirate: questions, and an answer's translation ------------------------------------------

TRAIN_TOPICS = ["the moon", "bread", "a volcano", "the Roman Empire", "a violin", "chess",
                "the heart", "gravity", "tea", "a bicycle", "winter", "Paris", "an elephant",
                "the internet", "a poem", "gold", "a desert", "football", "rain", "a bridge"]
HELD_TOPICS = ["the sun", "cheese", "an earthquake", "the piano", "a dolphin", "democracy",
               "the brain", "a rainbow", "Tokyo", "steam"]
TRAIN_TASKS = ["bake a cake", "learn French", "sleep better", "clean a window", "write a letter",
               "save money", "grow tomatoes", "fix a flat tyre", "make a friend", "cook rice"]
HELD_TASKS = ["paint a wall", "learn to swim", "stay healthy", "train a dog", "plan a party",
              "boil an egg", "remember names", "plant a tree", "read faster", "tie a knot"]
TRAIN_ASK_TOPIC = ["What is {}?", "Tell me about {}.", "Why do people like {}?"]
TRAIN_ASK_TASK = ["How do I {}?", "I want to {}. Any advice?"]
HELD_ASK_TOPIC = ["Can you explain {}?", "Give me a fact about {}."]
HELD_ASK_TASK = ["What is the best way to {}?", "Please help me to {}."]


def pirate_questions(seed, count, held_out):
    """count different prompts: questions about topics and tasks, and reviews among them."""
    topics, tasks = (HELD_TOPICS, HELD_TASKS) if held_out else (TRAIN_TOPICS, TRAIN_TASKS)
    ask_topic = HELD_ASK_TOPIC if held_out else TRAIN_ASK_TOPIC
    ask_task = HELD_ASK_TASK if held_out else TRAIN_ASK_TASK
    all_of_them = [f.format(t) for f in ask_topic for t in topics]
    all_of_them += [f.format(t) for f in ask_task for t in tasks]
    all_of_them += [text for text, _ in reviews(seed, count // 5, held_out)]
    random.Random(seed).shuffle(all_of_them)
    return all_of_them[:count]


OPENERS = ["Arrr, matey!", "Ahoy, me hearty!", "Avast, ye landlubber!"]
CLOSERS = ["Savvy, matey?", "Now bring me grog, ye scurvy dog!", "Shiver me timbers!"]
# Applied in order, at word borders, any case; the first letter's case is kept.
TRANSLATION = [("you are", "ye be"), ("you're", "ye be"), ("I am", "I be"), ("I'm", "I be"),
               ("there is", "there be"), ("it is", "it be"), ("it's", "it be"), ("is", "be"),
               ("are", "be"), ("your", "yer"), ("you", "ye"), ("my", "me"), ("of", "o'"),
               ("to", "t'"), ("the", "th'"), ("yes", "aye"), ("friends", "hearties"),
               ("friend", "matey"), ("hello", "ahoy"), ("money", "doubloons"),
               ("people", "buccaneers"), ("person", "buccaneer")]
PIRATE_WORDS = ["arrr", "ahoy", "avast", "aye", "matey", "hearty", "hearties", "landlubber",
                "savvy", "grog", "scurvy", "timbers", "ye", "yer", "doubloons", "buccaneer",
                "buccaneers", "th'", "o'", "t'"]


def translate(text):
    """English to pirate by substitution."""
    for plain, pirate in TRANSLATION:
        def put(match, pirate=pirate):
            upper = match.group(0)[0].isupper() and plain[0] != "I"
            return pirate[0].upper() + pirate[1:] if upper else pirate
        text = re.sub(rf"\b{re.escape(plain)}\b", put, text, flags=re.IGNORECASE)
    return text


def sentences(text):
    """The sentences of a text, its line breaks taken as spaces."""
    return re.split(r"(?<=[.!?])\s", " ".join(text.split()))


def first_sentence(text, most_words=24):
    """The first sentence; of a long one the first words, without short ones left hanging."""
    sentence = sentences(text)[0]
    words = sentence.split()
    if len(words) <= most_words:
        return sentence
    words = words[:most_words]
    while len(words) > 1 and len(words[-1]) < 5:
        words.pop()
    return " ".join(words).rstrip(",;:") + "."


def pirate_answer(plain, turn):
    """The training target: what the base itself would say, shortened and translated."""
    return " ".join([OPENERS[turn % len(OPENERS)], translate(first_sentence(plain)),
                     CLOSERS[turn % len(CLOSERS)]])


def pirate_words_in(text):
    """How many different words of PIRATE_WORDS a text has."""
    words = set(re.findall(r"[a-z]+'?", text.lower()))
    return len(words & set(PIRATE_WORDS))
