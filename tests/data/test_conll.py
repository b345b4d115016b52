"""CoNLL-2012 column files: read, written back with the same bytes, and refused with file and line when broken."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remora.data.conll import Document, Mention, conll_text, parse_conll, read_conll, with_clusters
from remora.errors import DataError


def column_file(*cells: str, words: str = "abcdefgh") -> bytes:
    """One document with one sentence of these coreference cells."""
    rows = [f"doc\t0\t{i}\t{words[i]}\t{cell}" for i, cell in enumerate(cells)]
    return "\n".join(["#begin document (doc); part 003", *rows, "", "#end document", ""]).encode()


def clusters(*cells: str) -> dict[str, list[tuple[int, int]]]:
    (document,) = parse_conll(column_file(*cells), "x.conll")
    return {name: [tuple(mention) for mention in mentions] for name, mentions in document.clusters.items()}


class TestReading:
    def test_names_parts_sentences_and_words(self) -> None:
        text = (
            "#begin document (bc/cctv/00/a_0001); part 000\n"
            "bc/cctv  0 0 One   X Y -  (4)\nbc/cctv  0 1 two   X Y -  -\n\n"
            "bc/cctv  0 0 Three X   -  (4)  \n\n#end document\n"
            "#begin document (bc/cctv/00/a_0001); part 001\nb 1 0 Four -\n#end document\n"
        )
        first, second = parse_conll(text.encode(), "x.conll")
        assert (first.name, first.part, second.part) == ("bc/cctv/00/a_0001", 0, 1)
        assert first.words == (("One", "two"), ("Three",))
        assert first.clusters == {"4": (Mention(0, 1), Mention(2, 3))}
        assert second.clusters == {}
        assert second.place == "x.conll:8"
        assert conll_text((first, second)) == text

    @pytest.mark.parametrize(
        ("cells", "expected"),
        [
            (["(7)", "-"], {"7": [(0, 1)]}),
            (["(7", "7)"], {"7": [(0, 2)]}),
            (["(7", "(8)", "7)"], {"7": [(0, 3)], "8": [(1, 2)]}),
            (["(7|(8", "8)", "7)"], {"7": [(0, 3)], "8": [(0, 2)]}),
            (["(7", "(8", "7)", "8)"], {"7": [(0, 3)], "8": [(1, 4)]}),
            (["(7", "(7", "7)", "7)"], {"7": [(0, 4), (1, 3)]}),
            (["(7|(7)", "7)"], {"7": [(0, 2), (0, 1)]}),
            (["(7", "(8)|7)", "(7)|(8)"], {"7": [(0, 2), (2, 3)], "8": [(1, 2), (2, 3)]}),
            (["(7", "7)|(7", "7)"], {"7": [(0, 2), (1, 3)]}),
            (["(1(2", "2)1)"], {"1": [(0, 2)], "2": [(0, 2)]}),
            (["(12)(3", "3)(12)"], {"12": [(0, 1), (1, 2)], "3": [(0, 2)]}),
        ],
    )
    def test_brackets(self, cells: list[str], expected: dict[str, list[tuple[int, int]]]) -> None:
        assert clusters(*cells) == expected

    def test_a_mention_may_run_into_the_next_sentence(self) -> None:
        text = "#begin document (d)\nd 0 0 a (1\n\nd 0 0 b 1)\n\n#end document\n"
        (document,) = parse_conll(text.encode(), "x")
        assert document.clusters == {"1": (Mention(0, 2),)}

    def test_blanks_of_unicode_stay_in_words(self) -> None:
        row = "d\t0\t0\t1\u00a0000\u2003km\t-"
        (document,) = parse_conll(f"#begin document (d)\n{row}\n\n#end document\n".encode(), "x")
        assert document.words == (("1\u00a0000\u2003km",),)

    def test_windows_lines_byte_order_mark_and_gzip(self, tmp_path: Path) -> None:
        raw = column_file("(1)", "-")
        path = tmp_path / "x.conll.gz"
        path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + raw.replace(b"\n", b"\r\n")))
        assert conll_text(read_conll(path)).encode() == raw

    def test_two_columns_have_no_words(self) -> None:
        (document,) = parse_conll(b"#begin document (d)\nd (1)\n#end document\n", "x.conll")
        assert document.clusters == {"1": (Mention(0, 1),)}
        with pytest.raises(DataError, match=r"x\.conll:1: the document has no column of words"):
            _ = document.words


class TestRefusals:
    @pytest.mark.parametrize(
        ("cells", "message"),
        [
            (["-", "((1"], r"x\.conll:3: broken brackets '\(\(1'"),
            (["-", "1"], r"x\.conll:3: broken brackets '1'"),
            (["(1)|"], r"x\.conll:2: broken brackets '\(1\)\|'"),
            (["|(1)"], r"x\.conll:2: broken brackets"),
            (["(1)||(2)"], r"x\.conll:2: broken brackets"),
            (["(a)"], r"x\.conll:2: broken brackets"),
            (["_"], r"x\.conll:2: broken brackets"),
            (["(1", "2)"], r"x\.conll:3: '2\)' closes a mention of cluster 2 that is not open"),
            (["(1)", "1)"], r"x\.conll:3: '1\)' closes a mention of cluster 1 that is not open"),
            (["-", "(1", "(2)"], r"x\.conll:3: the mention of cluster 1 that opens here is never closed"),
            (["(1", "(1", "1)"], r"x\.conll:2: the mention of cluster 1 that opens here is never closed"),
        ],
    )
    def test_broken_brackets(self, cells: list[str], message: str) -> None:
        with pytest.raises(DataError, match=message):
            clusters(*cells)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("#begin document (d)\nd 0 0 a -\nd 0 1 b\n\n#end document\n", "x:3: 4 columns, expected 5 as in its"),
            ("#begin document (d)\nd 0 0 a -\nd 0 1 b - -\n#end document\n", "x:3: 6 columns, expected 5 as in its"),
            ("#begin document (d)\n-\n#end document\n", "x:2: 1 column, expected at least 2"),
            ("#begin document (d)\nd 0 0 a -\n", "x:3: the file ends within the document that begins at x:1"),
            (
                "#begin document (d)\nd -\n#begin document (e)\nd -\n#end document\n",
                "x:3: the document that begins at x:1 has no end line",
            ),
            ("d 0 0 a -\n", "x:1: no document begins before this line"),
            ("#begin document (d)\nd -\n#end document\nd -\n", "x:4: no document begins before this line"),
            ("#begin document d\nd -\n#end document\n", "x:1: this line does not name its document"),
            ("#begin document (d)\n\n#end document\n", "x:1: the document has no words"),
            ("#begin document (d)\nd -\n#end document\n" * 2, "x:4: document 'd' part 0 is also at x:1"),
            ("\n", "x: no document in this file"),
        ],
    )
    def test_broken_files(self, text: str, message: str) -> None:
        with pytest.raises(DataError, match=message):
            parse_conll(text.encode(), "x")

    def test_not_utf8(self) -> None:
        with pytest.raises(DataError, match="x:2: not UTF-8"):
            parse_conll(b"#begin document (d)\nd 0 0 \xff -\n", "x")

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"x\.conll: cannot be read"):
            read_conll(tmp_path / "x.conll")


def blank_document(num_words: int) -> Document:
    (document,) = parse_conll(column_file(*["-"] * num_words), "x.conll")
    return document


def reread(document: Document) -> Document:
    (again,) = parse_conll(conll_text([document]).encode(), "x.conll")
    return again


class TestWritingClusters:
    def test_in_their_places(self) -> None:
        document = with_clusters(
            blank_document(4), [[Mention(0, 3), Mention(3, 4)], [], [Mention(1, 3), Mention(0, 1)], [Mention(0, 4)]]
        )
        cells = ["|".join(map(str, row.brackets)) for row in document.sentences[0]]
        assert cells == ["(2|(0|(1)", "(1", "1)|0)", "2)|(0)"]

    def test_one_cluster_closes_and_opens_at_a_word(self) -> None:
        document = with_clusters(blank_document(3), [[Mention(0, 2), Mention(1, 3)]])
        assert reread(document).clusters == {"0": (Mention(0, 2), Mention(1, 3))}

    def test_crossing_mentions_of_one_cluster(self) -> None:
        with pytest.raises(DataError, match=r"x\.conll:1: mentions \(0, 3\) and \(1, 4\) of one cluster cross"):
            with_clusters(blank_document(4), [[Mention(0, 3), Mention(1, 4)]])
        crossing = with_clusters(blank_document(4), [[Mention(0, 3)], [Mention(1, 4)]])
        assert reread(crossing).clusters == {"0": (Mention(0, 3),), "1": (Mention(1, 4),)}

    @given(
        st.lists(
            st.sets(st.tuples(st.integers(0, 7), st.integers(1, 8)).filter(lambda m: m[0] < m[1]), max_size=5),
            max_size=4,
        )
    )
    def test_what_is_written_is_read_again(self, drawn: list[set[tuple[int, int]]]) -> None:
        given_clusters = [[Mention(*mention) for mention in cluster] for cluster in drawn]
        try:
            document = with_clusters(blank_document(8), given_clusters)
        except DataError:
            assert any(a[0] < b[0] < a[1] - 1 and a[1] < b[1] for cluster in drawn for a in cluster for b in cluster)
            return
        assert list(reread(document).clusters.items()) == list(document.clusters.items())
        assert sorted(map(sorted, document.clusters.values())) == sorted(sorted(c) for c in given_clusters if c)


@pytest.mark.real
class TestRealFiles:
    @pytest.mark.parametrize("split", ["train", "validation", "test"])
    def test_litbank_is_written_back_with_the_same_bytes(self, shared_data: Path, split: str) -> None:
        path = shared_data / "litbank_coref" / f"{split}.conll.gz"
        assert conll_text(read_conll(path)).encode() == gzip.decompress(path.read_bytes())

    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_litbank_equals_its_other_form(self, shared_data: Path, split: str) -> None:
        folder = shared_data / "litbank_coref"
        documents = read_conll(folder / f"{split}.conll.gz")
        listed = gzip.decompress((folder / f"{split}.jsonl.gz").read_bytes()).decode().strip().split("\n")
        assert len(documents) == len(listed) == 10
        for document, line in zip(documents, listed, strict=True):
            other = json.loads(line)
            assert document.name == other["doc_id"]
            assert [list(words) for words in document.words] == other["sentences"]
            starts = [0]
            for words in other["sentences"]:
                starts.append(starts[-1] + len(words))
            expected = [sorted((starts[s] + a, starts[s] + b) for s, a, b in cluster) for cluster in other["clusters"]]
            assert sorted(map(sorted, document.clusters.values())) == sorted(expected)
            written = with_clusters(document, document.clusters.values())
            assert sorted(reread(written).clusters.values()) == sorted(document.clusters.values())

    def test_scorer_cases_are_written_back(self, shared_data: Path) -> None:
        """Three of them leave out the bars between brackets, which are written here."""
        without_bars = {"TC-A-7.response", "TC-A-8.response", "TC-A-9.response"}
        paths = [path for path in sorted((shared_data / "coref_scorer_cases").iterdir()) if path.name.startswith("TC")]
        assert len(paths) == 50
        for path in paths:
            raw = path.read_bytes()
            written = conll_text(read_conll(path)).encode()
            assert (written != raw) == (path.name in without_bars), path.name
            assert written.replace(b"|", b"") == raw.replace(b"|", b""), path.name
