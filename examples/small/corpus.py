#!/usr/bin/env python3
"""English prose out of Debian's documentation: corpus.py OUT_DIR PACKAGE.deb ...

Writes OUT_DIR/PACKAGE.txt for every package in the order given, its documents separated by form feeds, and prints a row of a Markdown table
with its size and licences. Markup, code and tables are left out. A paragraph is kept if it reads like English, and if none before it, of
whichever package, begins with the same letters. Text that is in OUT_DIR already counts as before it: more packages can be added.

Needs pdftotext (package poppler-utils), mandoc and mod2imp (package libsword-utils).
"""
import argparse, gzip, html, io, pathlib, re, subprocess, tarfile, tempfile

COMMON = set("a an and are as at be been but by can do for from has have he his if in into is it its may not of on one or other so such that "
             "the their them then there these they this to was we were when which will with you your".split())
LANGUAGES = "ar|bg|ca|cs|da|de|el|es|et|eu|fa|fi|fr|gl|hi|hr|hu|id|it|ja|ko|lt|lv|nb|nl|nn|no|pl|pt|pt_BR|ro|ru|sk|sl|sr|sv|ta|te|tr|uk|vi|zh|zh_CN|zh_TW"
TRANSLATION = re.compile(rf"/(?:{LANGUAGES})(?:[-_.@][A-Za-z]+)?/|[._-](?:{LANGUAGES})(?:[-_][A-Za-z]{{2}})?(?:\.[a-z0-9]+)*$")
NO_PROSE = re.compile(r"copyright|changelog|/(?:license|copying|news|todo|authors|thanks|genindex|py-modindex|search|index-all)\b|[-_]members\."
                      r"|[-_]source\.|/src-html/|/_modules/|/_sources/|/class-use/|package-(?:use|tree)|_8(?:h|hpp|hh|cc|cpp|c)\b"
                      r"|/(?:dir|functions|globals|graph|inherits|namespacemembers|hierarchy|annotated)[_.]", re.I)
MARKUP = (".html", ".htm", ".xhtml", ".page", ".docbook", ".xml")
PLAIN = (".txt", ".text", ".info", ".rst", ".md", ".dict")
LEFT_OUT = re.compile(r"<!--.*?-->|<(script|style|pre|nav|head|svg|math|select|screen|programlisting|synopsis|footer)\b.*?</\1\s*>", re.S | re.I)
BLOCK = re.compile(r"</?(?:p|div|h\d|li|[duo]l|d[td]|t[dhr]|table|br|hr|blockquote|section|title|item|listitem|entry|para|simpara|note)\b[^>]*>", re.I)
BOILERPLATE = re.compile(r"Definition at line|Reimplemented|Referenced by|References |Implements |Inherit|Include dependency|This is the complete list"
                         r"|Generated |Copyright|Permission is|This file documents|Go to the|Node:|File: |Next: ")
LIGATURES = str.maketrans({"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl", "\u2010": "-", "\u00a0": " ", "\u00ad": None})


def plain(text):
    """The paragraphs of a text, the line breaks inside them undone."""
    text = re.sub(r".\x08", "", text).translate(LIGATURES).replace("\f", "\n\n")
    return [" ".join(block.split()) for block in re.split(r"\n\s*\n", text)]


def markup(text):
    return plain(html.unescape(re.sub(r"<[^>]*>", "", BLOCK.sub("\n\n", LEFT_OUT.sub(" ", text)))))


def pod(text):
    text = re.sub(r"(?m)^[ \t].*$", "", text)  # indented is verbatim
    for _ in range(3):  # C<L<...>> nests
        text = re.sub(r"[A-Z]<+ ?([^<>]*?) ?>+", r"\1", text)
    return plain(re.sub(r"(?m)^=\w+ ?", "", text))


def pdf(data):
    with tempfile.NamedTemporaryFile(suffix=".pdf") as file:
        file.write(data)
        file.flush()
        try:
            out = subprocess.run(["pdftotext", file.name, "-"], capture_output=True, timeout=30).stdout
        except subprocess.TimeoutExpired:
            return []
    return plain(re.sub(r"(?<=[a-z])-\n(?=[a-z])", "", out.decode("utf-8", "replace")))


def manual_page(data):
    out = subprocess.run(["mandoc", "-T", "html", "-O", "fragment"], input=data, capture_output=True).stdout
    return markup(out.decode("utf-8", "replace"))


def sword(deb):
    """A SWORD module: a chapter is a paragraph, or more; fifty of them are a document."""
    with tempfile.TemporaryDirectory() as root:
        subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
        share = pathlib.Path(root, "usr/share/sword")
        for conf in share.glob("mods.d/*.conf"):
            module = re.search(r"^\[(.*)\]", conf.read_text("utf-8", "replace"), re.M).group(1)
            out = subprocess.run(["mod2imp", module], capture_output=True, env={"SWORD_PATH": str(share)}, check=True).stdout
            chapters = {}
            for entry in out.decode("utf-8", "replace").split("$$$")[1:]:
                key, _, text = entry.partition("\n")
                text = re.sub(r"<note.*?</note>", "", text, flags=re.S)
                text = re.sub(r"<[^>]*>", "", re.sub(r"<(?:br|p|lb|div)\b[^>]*>|</p>", "\n\n", text))
                chapters[key.split(":")[0]] = chapters.get(key.split(":")[0], "") + " " + html.unescape(text)
            texts = list(chapters.values())
            for first in range(0, len(texts), 50):
                yield plain("\n\n".join(texts[first:first + 50]))


def documents(deb):
    """The documents of a package, each a list of paragraphs of any kind."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as process:
        archive = tarfile.open(fileobj=process.stdout, mode="r|")
        for member in archive:
            name = re.sub(r"\.(gz|dz)$", "", member.name)
            if not member.isfile() or member.size > 32 << 20 or NO_PROSE.search(name) or TRANSLATION.search(name):
                continue
            man, fortune = re.search(r"/man/man\d/", name), re.search(r"/games/fortunes/[^.]+$", name)
            kind = pathlib.Path(name).suffix.lower()
            kind = ".man" if man else ".txt" if fortune or re.match(r"\.info-\d+$", kind) else kind
            if kind not in MARKUP + PLAIN + (".man", ".pod", ".pdf"):
                continue
            data = archive.extractfile(member).read()
            if name != member.name:
                data = gzip.decompress(data)
            if kind == ".pdf":
                yield pdf(data)
            elif kind == ".man":
                yield manual_page(data)
            else:
                text = data.decode("utf-8", "replace")
                if kind in MARKUP:
                    yield markup(text)
                elif kind == ".pod":
                    yield pod(text)
                elif kind == ".dict":  # a headword is not indented, what it means is
                    yield plain(re.sub(r"\n(?=\S)", "\n\n", text))
                else:
                    yield plain(text.replace("\n%\n", "\n\n"))  # between fortunes stands a %


def is_prose(paragraph):
    words = paragraph.split()
    letters = sum(map(str.isalpha, paragraph))
    return (len(words) >= 8 and letters + len(words) > 0.88 * len(paragraph) and not BOILERPLATE.match(paragraph)
            and sum(word.lower() in COMMON for word in words) > 0.22 * len(words) and "\ufffd" not in paragraph)


def is_heading(paragraph):
    return 4 <= len(paragraph) <= 70 and paragraph[0].isupper() and all(c.isalpha() or c in " ,-:'" for c in paragraph)


def start_of(paragraph):
    """What is equal for paragraphs that begin with the same letters."""
    return hash("".join(filter(str.isalpha, paragraph[:160].lower()))[:80])


def clean(paragraphs, seen):
    """What is prose and new, and the headings directly above it."""
    kept, heading = [], None
    for paragraph in filter(None, paragraphs):
        if is_prose(paragraph):
            if (start := start_of(paragraph)) not in seen:
                seen.add(start)
                kept += [heading, paragraph] if heading else [paragraph]
            heading = None
        else:
            heading = paragraph if is_heading(paragraph) else None
    return "\n\n".join(kept)


def licences(deb):
    """The names of licences in the copyright file, as its fields name them or as its prose does."""
    files = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], capture_output=True, check=True).stdout
    text, elsewhere = "", ""
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith("/copyright"):
                text += archive.extractfile(member).read().decode("utf-8", "replace")
            elif member.issym() and re.fullmatch(r"\./usr/share/doc/[^/]+", member.name):
                elsewhere = f"those of {member.linkname}"
    names = {name.strip() for name in re.findall(r"(?m)^License: *(\S.*)$", text)}
    names = {name for name in names if re.fullmatch(r"[\w.+/-]+(?:,? (?:and|or|with) [\w.+/-]+)*", name)} or re.findall(
        r"(?<=common-licenses/)[\w.-]*\w|(?i:public domain|Free Documentation License|Creative Commons|BSD|\bMIT\b|LaTeX Project Public License"
        r"|PostgreSQL License|Python Software Foundation|Apache License)", text)
    return ", ".join({name.lower(): name for name in sorted(names, reverse=True)}.values()) or elsewhere or "in its copyright file"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out", type=pathlib.Path)
    ap.add_argument("debs", type=pathlib.Path, nargs="+")
    args = ap.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    seen = {start_of(p) for path in args.out.glob("*.txt") for p in re.split("\n\n|\f", path.read_text("utf-8"))}
    print("| package | version | text | licences |\n|---|---|---|---|")
    for deb in args.debs:
        package, version = subprocess.run(["dpkg-deb", "-W", "--showformat=${Package}\n${Version}", deb], capture_output=True, text=True,
                                          check=True).stdout.splitlines()
        texts = [clean(paragraphs, seen) for paragraphs in (sword(deb) if package.startswith("sword-") else documents(deb))]
        text = "\f".join(text for text in texts if len(text) >= 400).encode()
        if text:
            (args.out / f"{package}.txt").write_bytes(text)
            print(f"| {package} | {version} | {len(text) / 1e6:.2f} MB | {licences(deb)} |", flush=True)


if __name__ == "__main__":
    main()
