"""Tiny tokenizers in the way of SentencePiece: a space is a part of the word that follows it."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SCHEMES = ("first", "always", "never", "legacy")
"""Before which texts a space is put: the first, each after a control token, none, and each by a
normalizer, as older files have it."""
WORDS = (
    "Hi",
    "Yes",
    "No",
    "So",
    "Rating",
    "Xyzzy",
    "A",
    "B",
    "7",
    "(",
    ":",
    ".",
    "[INST]",
    "[/INST]",
)
SPECIAL = ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>")


def metaspace_tokenizer(scheme: str, template: str) -> PreTrainedTokenizerFast:
    """A token for each word, with and without a space before it; bytes for what is no word."""
    spaced = [f"▁{word}" for word in WORDS]
    vocab = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256)), ("▁", -2.0)]
    vocab += [(word, -1.0) for word in (*WORDS, *spaced)]
    backend = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
    if scheme == "legacy":
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if scheme != "never":
        steps.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer
