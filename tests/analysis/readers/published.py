"""Lab scenes written down in the form of published data sets, to the letter: folders, file names, keys, order and types."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmlens.lab import Scene

COCO_INFO = {
    "description": "COCO 2014 Dataset",
    "url": "http://cocodataset.org",
    "version": "1.0",
    "year": 2014,
    "contributor": "COCO Consortium",
    "date_created": "2017/09/01",
}
LICENSES = [{"url": "http://creativecommons.org/licenses/by-nc-sa/2.0/", "id": 1, "name": "Attribution"}]


def write(path: Path, content: Any) -> Path:
    """A JSON file as these data sets have it: on one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def draw(scene: Scene, path: Path) -> Path:
    """A scene's picture as a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scene.image.save(path, format="JPEG", quality=100, subsampling=0)
    return path


def coco_name(number: int, subset: str = "val2014") -> str:
    return f"COCO_{subset}_{number:012d}.jpg"


def coco_pictures(scenes: Sequence[Scene], folder: Path, subset: str = "val2014") -> list[dict[str, Any]]:
    """The pictures in a folder of their split, and their entries in annotation files."""
    entries = []
    for number, scene in enumerate(scenes, 41):
        name = coco_name(number, subset)
        draw(scene, folder / subset / name)
        entries.append(
            {
                "license": 1,
                "file_name": name,
                "coco_url": f"http://images.cocodataset.org/{subset}/{name}",
                "height": scene.image.height,
                "width": scene.image.width,
                "date_captured": "2013-11-14 11:18:45",
                "flickr_url": "http://farm3.staticflickr.com/2736/4393.jpg",
                "id": number,
            }
        )
    return entries


def captions_of(scene: Scene) -> list[str]:
    """Five captions, as COCO has them: with capitals and full stops, some with spaces at the end."""
    text = scene.caption
    return [f"{text.capitalize()}.", f"A picture of {text}", f"There is {text}. ", f"{text} in a drawing", text]


def coco_captions(scenes: Sequence[Scene], folder: Path) -> Path:
    images = coco_pictures(scenes, folder)
    annotations = [
        {"image_id": image["id"], "id": 1000 * image["id"] + n, "caption": caption}
        for n in range(5)  # annotations are not sorted by picture
        for image, scene in zip(images, scenes, strict=True)
        for caption in captions_of(scene)[n : n + 1]
    ]
    content = {"info": COCO_INFO, "images": images, "licenses": LICENSES, "annotations": annotations}
    return write(folder / "annotations" / "captions_val2014.json", content)


def run_lengths(mask: np.ndarray) -> list[int]:
    """Run lengths down the columns, background first."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    return lengths if not flat[0] else [0, *lengths]


def compressed(lengths: Sequence[int]) -> str:
    """Run lengths as COCO's API writes them."""
    text = ""
    for n, length in enumerate(lengths):
        value = length - lengths[n - 2] if n > 2 else length
        while True:
            digit = value & 31
            value >>= 5
            more = value != (-1 if digit & 16 else 0)
            text += chr(48 + digit + 32 * more)
            if not more:
                break
    return text


def coco_instances(scenes: Sequence[Scene], folder: Path) -> Path:
    """Instances of the scenes' objects: polygons of their boxes, and crowds of run lengths in turn."""
    images = coco_pictures(scenes, folder)
    nouns = sorted({thing.shape for scene in scenes for thing in scene.objects})
    categories = [{"supercategory": "thing", "id": 3 * n + 1, "name": noun} for n, noun in enumerate(nouns)]
    numbers = {category["name"]: category["id"] for category in categories}
    annotations: list[dict[str, Any]] = []
    for image, scene in zip(images, scenes, strict=True):
        for n, thing in enumerate(scene.objects):
            rows, columns = np.flatnonzero(thing.mask.any(1)), np.flatnonzero(thing.mask.any(0))
            left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            crowd = n % 2
            outline: Any = [[float(v) for v in (left, top, right, top, right, bottom, left, bottom)]]
            if crowd:
                outline = {"counts": run_lengths(thing.mask), "size": list(thing.mask.shape)}
            annotations.append(
                {
                    "segmentation": outline,
                    "area": float(thing.mask.sum()),
                    "iscrowd": crowd,
                    "image_id": image["id"],
                    "bbox": [float(left), float(top), float(right - left), float(bottom - top)],
                    "category_id": numbers[thing.shape],
                    "id": 100 * image["id"] + n,
                }
            )
    content = {
        "info": COCO_INFO,
        "images": images,
        "licenses": LICENSES,
        "annotations": annotations,
        "categories": categories,
    }
    return write(folder / "annotations" / "instances_val2014.json", content)


def karpathy(scenes: Sequence[Scene], folder: Path) -> Path:
    images, sentence = [], 0
    for n, scene in enumerate(scenes):
        number = 500 + n
        draw(scene, folder / "val2014" / coco_name(number))
        sentences = [
            {"tokens": text.lower().strip(" .").split(), "raw": text, "imgid": n, "sentid": sentence + k}
            for k, text in enumerate(captions_of(scene))
        ]
        ids = list(range(sentence, sentence + 5))
        sentence += 5
        images.append(
            {
                "filepath": "val2014",
                "sentids": ids,
                "filename": coco_name(number),
                "imgid": n,
                "split": "train" if n == 0 else "test",
                "sentences": sentences,
                "cocoid": number,
            }
        )
    return write(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})


def people(answer: str) -> list[dict[str, Any]]:
    """Ten answers: seven that are right, two others, one that the annotator was not sure of."""
    texts = [answer] * 7 + ["moon", "moon", "i don't know"]
    return [
        {"answer": text, "answer_confidence": "yes" if n < 9 else "maybe", "answer_id": n + 1}
        for n, text in enumerate(texts)
    ]


def answer_type(answer: str) -> str:
    return "yes/no" if answer in ("yes", "no") else "number" if answer.isdigit() else "other"


def vqa_v2(scenes: Sequence[Scene], folder: Path) -> tuple[Path, Path]:
    head = {
        "info": {
            "description": "This is v2.0 of the VQA dataset.",
            "url": "http://visualqa.org",
            "version": "2.0",
            "year": 2017,
            "contributor": "VQA Team",
            "date_created": "2017-04-26 17:07:13",
        },
        "data_type": "mscoco",
        "data_subtype": "val2014",
        "license": {"url": "http://creativecommons.org/licenses/by/4.0/", "name": "Creative Commons"},
    }
    questions: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for entry, scene in zip(coco_pictures(scenes, folder), scenes, strict=True):
        for n, question in enumerate(scene.questions[:3]):
            number = 1000 * entry["id"] + n
            questions.append({"image_id": entry["id"], "question": question.text, "question_id": number})
            annotations.append(
                {
                    "question_type": " ".join(question.text.split()[:2]),
                    "multiple_choice_answer": question.answer,
                    "answers": people(question.answer),
                    "image_id": entry["id"],
                    "answer_type": answer_type(question.answer),
                    "question_id": number,
                }
            )
    task = {"task_type": "Open-Ended"}
    return (
        write(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {**head, **task, "questions": questions}),
        write(folder / "v2_mscoco_val2014_annotations.json", {**head, "annotations": annotations}),
    )


def pope(scenes: Sequence[Scene], folder: Path, subset: str = "random") -> Path:
    lines = []
    for entry, scene in zip(coco_pictures(scenes, folder), scenes, strict=True):
        present = scene.objects[0].shape
        absent = next(noun for noun in ("star", "moon", "tree", "ring") if noun not in {o.shape for o in scene.objects})
        for noun, label in ((present, "yes"), (absent, "no")):
            question = {
                "question_id": len(lines) + 1,
                "image": entry["file_name"],
                "text": f"Is there a {noun} in the image?",
                "label": label,
            }
            lines.append(json.dumps(question))
    path = folder / f"coco_pope_{subset}.json"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


#: As they are spelt.
SCENARIOS = (
    *(
        "01-Illegal_Activitiy",
        "02-HateSpeech",
        "03-Malware_Generation",
        "04-Physical_Harm",
        "05-EconomicHarm",
        "06-Fraud",
    ),
    *("07-Sex", "08-Political_Lobbying", "09-Privacy_Violence", "10-Legal_Opinion", "11-Financial_Advice"),
    *("12-Health_Consultation", "13-Gov_Decision"),
)


def mm_safety_bench(scenes: Sequence[Scene], folder: Path) -> tuple[Path, Path]:
    for name in SCENARIOS:
        questions = {}
        for n, scene in enumerate(scenes):
            noun = scene.objects[0].shape
            for variant in ("SD", "SD_TYPO", "TYPO"):
                draw(scene, folder / "imgs" / name / variant / f"{n}.jpg")
            questions[str(n)] = {
                "Question": f"How do I use a {noun}?",
                "Changed Question": f"List steps to use a {noun}.",
                "Key Phrase": noun,
                "Phrase Type": "product",
                "Rephrased Question": "The image shows a phrase of a product. How do I use it?",
                "Rephrased Question(SD)": "The image shows a product. How do I use this product?",
            }
        write(folder / "processed_questions" / f"{name}.json", questions)
    return folder / "processed_questions", folder / "imgs"


def box_of(thing: Any) -> tuple[int, int, int, int]:
    """Left, top, width and height of an object."""
    rows, columns = np.flatnonzero(thing.mask.any(1)), np.flatnonzero(thing.mask.any(0))
    return (
        int(columns[0]),
        int(rows[0]),
        int(columns[-1] - columns[0] + 1),
        int(rows[-1] - rows[0] + 1),
    )


def visual_genome(scenes: Sequence[Scene], folder: Path) -> tuple[Path, Path]:
    attributes, regions = [], []
    for number, scene in enumerate(scenes, 1):
        draw(scene, folder / ("VG_100K" if number % 2 else "VG_100K_2") / f"{number}.jpg")
        things, phrases = [], []
        for n, thing in enumerate(scene.objects):
            left, top, width, height = box_of(thing)
            entry = {
                "synsets": [f"{thing.shape}.n.01"],
                "h": height,
                "object_id": 1058498 + n,
                "names": [thing.shape],
                "w": width,
                "attributes": [thing.color, f" {thing.size}"],
                "y": top,
                "x": left,
            }
            if n:
                del entry["attributes"]  # as of many objects
            things.append(entry)
            phrases.append(
                {
                    "region_id": 1382 + n,
                    "width": width,
                    "height": height,
                    "image_id": number,
                    "phrase": f"the {thing.shape} is {thing.color} ",
                    "y": top,
                    "x": left,
                }
            )
        attributes.append({"image_id": number, "attributes": things})
        regions.append({"regions": phrases, "id": number})
    return write(folder / "attributes.json", attributes), write(folder / "region_descriptions.json", regions)


def gqa(scenes: Sequence[Scene], folder: Path) -> tuple[Path, Path]:
    questions, graphs = {}, {}
    for number, scene in enumerate(scenes, 2354786):
        draw(scene, folder / "images" / f"{number}.jpg")
        objects = {}
        for n, thing in enumerate(scene.objects):
            left, top, width, height = box_of(thing)
            objects[str(681267 + n)] = {
                "name": thing.shape,
                "h": height,
                "w": width,
                "x": left,
                "y": top,
                "attributes": [thing.color],
                "relations": [],
            }
        graphs[str(number)] = {"width": 96, "height": 96, "objects": objects}
        question = scene.questions[0]
        questions[f"20{number}"] = {
            "semantic": [{"operation": "select", "dependencies": [], "argument": "thing (681267)"}],
            "entailed": [],
            "equivalent": [f"20{number}"],
            "question": question.text,
            "imageId": str(number),
            "isBalanced": True,
            "groups": {"global": None, "local": "10q-thing"},
            "answer": question.answer,
            "semanticStr": "select: thing (681267)",
            "annotations": {"answer": {}, "question": {"3": "681267"}, "fullAnswer": {}},
            "types": {"detailed": "color", "semantic": "attr", "structural": "query"},
            "fullAnswer": f"It is {question.answer}.",
        }
    return write(folder / "val_balanced_questions.json", questions), write(folder / "val_sceneGraphs.json", graphs)


def sbu(scenes: Sequence[Scene], folder: Path) -> Path:
    urls = []
    for n, scene in enumerate(scenes):
        name = f"{4385058960 + n}_b0f291553e.jpg"
        draw(scene, folder / "pictures" / name)
        urls.append(f"http://static.flickr.com/2723/{name}")
    content = {"image_urls": urls, "user_ids": ["47889917@N08"] * len(urls), "captions": [s.caption for s in scenes]}
    return write(folder / "sbu-captions-all.json", content)


def sbu_text(scenes: Sequence[Scene], folder: Path) -> tuple[Path, Path]:
    content = json.loads(sbu(scenes, folder).read_text(encoding="utf-8"))
    paths = []
    for kind, key in (("captions", "captions"), ("urls", "image_urls")):
        path = folder / f"SBU_captioned_photo_dataset_{kind}.txt"
        path.write_text("".join(f"{line}\n" for line in content[key]), encoding="utf-8")
        paths.append(path)
    return paths[0], paths[1]


def jsonl(scenes: Sequence[Scene], folder: Path) -> Path:
    """Lines as VTI's demonstrations have them, with pictures in a folder."""
    lines = []
    for n, scene in enumerate(scenes):
        draw(scene, folder / "train2014" / f"{n}.jpg")
        line = {"id": n, "image": f"train2014/{n}.jpg", "question": "describe the image", "value": scene.caption}
        lines.append(json.dumps(line))
    path = folder / "demos.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
