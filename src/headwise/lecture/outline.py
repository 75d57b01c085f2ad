"""The lecture's order: sections, their slides, and which figure, table and references stand on each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Slide:
    """key: of its words. number: of its figure and of its table. figure, table: the experiments that these show; none: a
    recorded sentence. then: a page of words that follows."""

    key: str
    number: int
    references: tuple[str, ...] = ("vaswani2017",)
    figure: tuple[str, ...] = ()
    table: tuple[str, ...] = ()
    then: str | None = None


@dataclass(frozen=True)
class Section:
    key: str
    slides: tuple[Slide, ...]


SECTIONS = (
    Section(
        "concepts",
        (
            Slide("introduction", 1),
            Slide("background", 2, figure=("two_fetch", "translation"), table=("two_fetch", "translation")),
        ),
    ),
    Section("design", (Slide("structure", 3), Slide("projections", 4))),
    Section("steps", (Slide("overview", 5), Slide("projection", 6), Slide("concatenation", 7))),
    Section(
        "advantages",
        (
            Slide(
                "features",
                8,
                figure=("features", "distance", "ablation"),
                table=("features", "two_fetch", "distance", "translation", "ablation"),
                then="rule",
            ),
            Slide("efficiency", 9, figure=("efficiency",), table=("efficiency",)),
        ),
    ),
    Section(
        "applications",
        (
            Slide("language", 10, ("devlin2018",)),
            Slide("vision", 11, ("dosovitskiy2020",)),
            Slide("speech", 12, ("gulati2020",)),
            Slide("multimodal", 13, ("li2020",)),
        ),
    ),
)

SLIDES = {slide.number: slide for section in SECTIONS for slide in section.slides}

REFERENCES = {
    "vaswani2017": "Vaswani, A., Shazeer, N., Parmar, N., Uszkoreit, J., Jones, L., Gomez, A. N., Kaiser, Ł. and Polosukhin, "
    "I. (2017). Attention is all you need. Advances in Neural Information Processing Systems 30, 5998-6008.",
    "devlin2018": "Devlin, J., Chang, M.-W., Lee, K. and Toutanova, K. (2018). BERT: Pre-training of deep bidirectional "
    "transformers for language understanding. arXiv:1810.04805.",
    "dosovitskiy2020": "Dosovitskiy, A., Beyer, L., Kolesnikov, A., Weissenborn, D., Zhai, X., Unterthiner, T., et al. (2020). "
    "An image is worth 16x16 words: Transformers for image recognition at scale. arXiv:2010.11929.",
    "gulati2020": "Gulati, A., Qin, J., Chiu, C.-C., Parmar, N., Zhang, Y., Yu, J., et al. (2020). Conformer: "
    "Convolution-augmented Transformer for speech recognition. arXiv:2005.08100.",
    "li2020": "Li, X., Yin, X., Li, C., Zhang, P., Hu, X., Zhang, L., et al. (2020). Oscar: Object-semantics aligned "
    "pre-training for vision-language tasks. European Conference on Computer Vision, 121-137.",
}
