"""Words as numbers: by hand, for scripts with and without spaces."""

from onerec.tokenizer.vocabulary import Vocabulary, padded, words


def test_words_are_lower_case_runs_and_single_characters_of_unspaced_scripts() -> None:
    assert words("Red, 8-ounce nail_polish!") == ["red", "8", "ounce", "nail", "polish"]
    assert words("美食vlog 做饭") == ["美", "食", "vlog", "做", "饭"]
    assert words("ﬁne Ｆｉｎｅ Größe") == ["fine", "fine", "größe"]
    assert words(" ?! ") == []


def test_a_vocabulary_by_hand() -> None:
    """Polish stands in three texts, nail and red in two, remover in one alone."""
    texts = ["red nail polish", "nail polish remover polish", "polish, red"]
    known = Vocabulary.fit(texts, 10)
    assert known.known == ("polish", "nail", "red")
    assert len(known) == 4
    coded = known.encode([*texts, "remover", ""], 2)
    assert coded.tolist() == [[3, 2], [2, 1], [1, 3], [0, 0], [0, 0]]
    assert Vocabulary.fit(texts, 1).known == ("polish",)


def test_a_chinese_caption_is_told_character_by_character() -> None:
    known = Vocabulary.fit(["美食做饭", "美食教程"], 10)
    assert known.known == ("美", "食")
    assert known.encode(["食美", "猫"], 8).tolist() == [[2, 1], [0, 0]]


def test_a_word_that_one_text_says_twice_is_not_known() -> None:
    assert Vocabulary.fit(["cup cup cup", "tea", "hot tea"], 9).known == ("tea",)


def test_unknown_words_take_no_place_of_known_ones() -> None:
    known = Vocabulary(("cup", "tea"))
    assert known.encode(["a hot cup of green tea"], 2).tolist() == [[1, 2]]


def test_a_grid_has_a_column_even_without_a_token() -> None:
    assert padded([]).shape == (0, 1)
    assert padded([[], []]).tolist() == [[0], [0]]
    assert padded([[5], [1, 2, 3]]).tolist() == [[5, 0, 0], [1, 2, 3]]
