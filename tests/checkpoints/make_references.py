"""Make `references.json`: what transformers' own processors make of every case, where torchvision and num2words are installed.

Run `python -m tests.checkpoints.make_references` there whenever layouts or cases change. mmlens has no part in it.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoProcessor

from tests.checkpoints.cases import CASES, REFERENCES, packed
from tests.checkpoints.layouts import LAYOUTS, Layout


def of_chats(processor: Any, chats: list[list[dict[str, Any]]], side: str) -> dict[str, Any]:
    """Prompts, and token ids with padding."""
    continued = chats[0][-1]["role"] == "assistant"
    template = processor.chat_template or processor.tokenizer.chat_template
    options: dict[str, Any] = {
        "add_generation_prompt": not continued,
        "continue_final_message": continued,
        "chat_template": template,
    }
    made = processor.apply_chat_template(
        chats,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": side},
        **options,
    )
    prompts = [processor.apply_chat_template(chat, tokenize=False, **options) for chat in chats]
    return {"prompts": prompts, "ids": [packed(row) for row in made["input_ids"].tolist()]}


def of_layout(layout: Layout, folder: Path) -> dict[str, dict[str, Any]]:
    """All cases of a layout; what it refuses is named."""
    processor = AutoProcessor.from_pretrained(layout.write(folder, weights=False))
    found: dict[str, dict[str, Any]] = {}
    for name, chats in CASES.items():
        if processor.chat_template is None and processor.tokenizer.chat_template is None:
            continue
        try:
            found[name] = of_chats(processor, chats, "left")
        except Exception as error:  # noqa: BLE001 - a reference is also what is refused
            found[name] = {"error": f"{type(error).__name__}: {str(error).splitlines()[0]:.160}"}
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = {layout.name: of_layout(layout, Path(folder) / layout.name) for layout in LAYOUTS}
    lines = [
        f'  "{name}": {{\n'
        + ",\n".join(f'    "{case}": {json.dumps(held, ensure_ascii=False)}' for case, held in cases.items())
        + "\n  }"
        for name, cases in made.items()
    ]
    REFERENCES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
