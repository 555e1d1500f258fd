"""Documents of the tasks in this folder, cut from one text file in UTF-8, whose paragraphs are separated by blank lines."""
import re
from pathlib import Path

from datasets import Dataset

CHOICES = 4
# Characters of a context, and of a document whose perplexity is taken.
CONTEXT, DOCUMENT = 200, 8000


def paragraphs(text):
    if not text:
        raise ValueError('this task is made of a text file: give --text FILE, or --metadata \'{"text": "FILE"}\' to lm_eval')
    return [paragraph.strip() for paragraph in re.split(r"\n\s*\n", Path(text).read_text("utf-8")) if paragraph.strip()]


def test_split(documents, text):
    if not documents:
        raise ValueError(f"{text}: no paragraph is long enough for this task")
    return {"test": Dataset.from_list(documents)}


def last_words(text=None, **_):
    """The last word of a sentence after at least CONTEXT characters of its paragraph, as in LAMBADA."""
    ends = (re.match(rf"(.{{{CONTEXT},}}) ([^\W\d_]{{3,}}) ?[.!?](?=\s|$)", paragraph, re.DOTALL) for paragraph in paragraphs(text))
    return test_split([{"context": end[1], "word": end[2]} for end in ends if end], text)


def continuations(text=None, **_):
    """The sentence that follows at least CONTEXT characters of a paragraph, among those that follow in the next paragraphs."""
    cuts = (re.match(rf"(.{{{CONTEXT},}}?[.!?]) ([^.!?]{{30,}}[.!?])(?=\s|$)", paragraph, re.DOTALL) for paragraph in paragraphs(text))
    cuts = [(cut[1], cut[2]) for cut in cuts if cut]
    documents = []
    for index, (context, _) in enumerate(cuts if len(cuts) >= CHOICES else []):
        # The right one is the first, second, third and fourth in turn.
        label = index % CHOICES
        choices = [cuts[(index + choice - label) % len(cuts)][1] for choice in range(CHOICES)]
        documents.append({"context": context, "choices": choices, "label": label})
    return test_split(documents, text)


def passages(text=None, **_):
    """The whole text in order, in documents of whole paragraphs and at least DOCUMENT characters, the last one apart."""
    documents = [""]
    for paragraph in paragraphs(text):
        if len(documents[-1]) >= DOCUMENT:
            documents.append("")
        documents[-1] += paragraph + "\n\n"
    return test_split([{"passage": document} for document in documents if document], text)
