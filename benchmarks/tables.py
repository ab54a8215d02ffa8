"""The committed results as tables of the README and of pages in docs/: `python -m benchmarks.tables`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.machine import show_machine

_ROOT = Path(__file__).resolve().parent.parent
_RESULTS = _ROOT / "benchmarks" / "results"


_TAKEN = ("cold_cpu_s", "cold_s", "warm_cpu_s", "warm_s")


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def accuracy() -> str:
    """The default model by set of faces, then how often those who talk look surprised."""
    result = json.loads((_RESULTS / "accuracy.json").read_text())
    head = ["faces", "n", "probabilities", "accuracy", "mean recall", "calibration error"]
    rows = []
    for faces, figures in result["rows"].items():
        for i, (name, of) in enumerate(figures.items()):
            low, high = of["accuracy_interval"]
            rows.append(
                [
                    *((faces, f"{of['n']:,}") if i == 0 else ("", "")),
                    f"**{name.partition('@')[0]}**" if i == 0 else name,
                    f"{of['accuracy']:.1%} ({100 * low:.1f} to {100 * high:.1f})",
                    f"{of['mean_recall']:.1%}",
                    f"{of['ece']:.3f}",
                ]
            )
    talk_head = ["neutral faces in video", "faces", "read as neutral", "read as surprised", "read as something else"]
    talk_rows = []
    for name, found in result["talk"].items():
        neutral, surprise = found["shares"]["neutral"], found["shares"]["surprise"]
        shown = [f"{share:.0%}" for share in (neutral, surprise, max(0.0, 1 - neutral - surprise))]
        talk_rows.append([name, str(found["n_faces"]), *shown])
    return f"{table(head, rows)}\n\n{table(talk_head, talk_rows)}"


def report() -> str:
    """The default model on the report half: figures, then the recall of each class; both with intervals."""
    found = json.loads((_RESULTS / "ferplus_valid_report.json").read_text())
    agreed, recalls, seen = found["agreed"], found["per_class_recall"], found["intervals"]
    named = {
        "accuracy": (found["accuracy"], seen["accuracy"]),
        f"accuracy where more than half of the votes agree, n = {agreed['n']:,}": (
            agreed["accuracy"],
            agreed["intervals"]["accuracy"],
        ),
        "mean recall": (found["mean_recall"], seen["mean_recall"]),
        "expected calibration error": (found["ece"], seen["ece"]),
        "negative log-likelihood": (found["nll"], seen["nll"]),
        "divergence from the raters' votes (KL)": (found["kl"], seen["kl"]),
    }
    rows = [[name, f"{value:.3f} ({low:.3f} to {high:.3f})"] for name, (value, (low, high)) in named.items()]
    low, high = found["unseen_accuracy_interval"]
    rows.append(["expected accuracy on an equal number of unseen faces", f"{low:.3f} to {high:.3f}"])
    of_classes = []
    for name, faces in zip(found["class_names"], map(sum, found["confusion"]), strict=True):
        low, high = seen["per_class_recall"][name]
        of_classes.append([name, str(faces), f"{recalls[name]:.2f} ({low:.2f} to {high:.2f})"])
    return f"{table(['', ''], rows)}\n\n{table(['class', 'faces', 'recall'], of_classes)}"


def detection() -> str:
    rows = json.loads((_RESULTS / "detection.json").read_text())["rows"]
    head = ["clip", "scheme", "faces", "recall", "of steady", "extra", "false", "landmarks, of eye distance", "tracks"]
    return table(
        head,
        [
            [
                row["clip"],
                row["scheme"],
                f"{row['faces']} of {row['reference_faces']}",
                f"{row['recall']:.1%}",
                f"{row['recall_of_steady']:.1%}",
                str(row["extra"]),
                str(row["false"]),
                f"{row['landmark_distance']:.1%}",
                f"{row['tracks']} ({row['reference_tracks']})",
            ]
            for row in rows
        ],
    )


_SPEEDS = ("speed_avx2_only.json", "speed.json")


def headline() -> str:
    """Frames per CPU-second after the start, beside the plain script in the same run."""
    rows = []
    for name in _SPEEDS:
        result = json.loads((_RESULTS / name).read_text())
        for clip, shown in (("720p, one face", "1280x720, one face"), ("1080p, six faces", "1920x1080, six faces")):
            ours, script, times = (
                result["figures"][f"{clip}: {figure}"]
                for figure in (
                    "frames per CPU s after the start",
                    "plain script, frames per CPU s",
                    "times as fast as plain script",
                )
            )
            has = ", ".join(result["instruction_sets"])
            rows.append([shown, has, str(ours), f"{script} (mfer is {times:.0f} times as fast)"])
    return table(["video", "the processor has", "mfer, frames per CPU-second", "a plain script, same run"], rows)


def speed() -> str:
    """A processor as if it had AVX2 alone, and with all that it has."""
    results = [json.loads((_RESULTS / name).read_text()) for name in _SPEEDS]
    figures = [result["figures"] for result in results]
    known = {name: value for of in reversed(figures) for name, value in of.items()}
    rows = [
        [name, *(str(of.get(name, "")) for of in figures)]
        for name in sorted(known, key=[*figures[0], *figures[1]].index)
        if not isinstance(known[name], dict)
    ]
    shares = []
    for result in results:
        stages = result["figures"]["720p, one face: CPU s by stage"]
        total_s = stages["all"] - stages["start"]
        parts = ", ".join(
            f"{name} {seconds / total_s:.0%}"
            for name, seconds in sorted(stages.items(), key=lambda item: -item[1])
            if name not in ("start", "all") and seconds / total_s >= 0.005
        )
        shares.append(f"- {', '.join(result['instruction_sets'])}: {parts}.")
    head = ["figure", *map(show_machine, results)]
    return "\n".join([table(head, rows), "", "After the start, 720p with one face:", "", *shares])


def isolation() -> str:
    result = json.loads((_RESULTS / "isolation.json").read_text())
    rows = [
        [name, f"{result[key]['start_cpu_s']:.1f}", f"{result[key]['cpu_s']:.1f}", f"{result[key]['wall_s']:.1f}"]
        for name, key in (("watched processes", "supervised"), ("one process, nobody watches", "unsupervised"))
    ]
    ratio = f"{result['cpu_ratio'] - 1:+.1%} of CPU time, {result['wall_ratio'] - 1:+.1%} of the time on the clock"
    head = [f"{result['n_clips']} clips of {result['clip_s']:g} s", "CPU s to start", "CPU s", "s on the clock"]
    return f"{table(head, rows)}\n\nAfter the start: {ratio}."


def short_clips() -> str:
    result = json.loads((_RESULTS / "short_clips.json").read_text())
    memory = result["peak_mb_at_start_and_end"]
    rows = [
        ["s per clip", f"{result['s_per_clip']:.3f}"],
        ["CPU s per clip", f"{result['cpu_s_per_clip']:.3f}"],
        ["files per table for 20 clips", f"{max(result['files_per_20_clips'].values()):.2f}"],
        ["MB of the command, at the start and at the end", " · ".join(map(str, memory["command"]))],
        ["MB of the largest worker, at the start and at the end", " · ".join(map(str, memory["worker"]))],
    ]
    over, over_one = (result["mfer_sql_cpu_s_and_s"][lake] for lake in ("this lake", "a lake of one clip"))
    rows += [
        [f"`mfer sql`, {name}: CPU s and s over all, over one clip", " · ".join(map(str, over[name] + over_one[name]))]
        for name in over
    ]
    head = [f"{result['n_clips']:,} clips of {result['n_frames']} frames, {result['n_workers']} workers", ""]
    return table(head, [*rows, ["load average", str(result["load_average"])]])


def scaling() -> str:
    result = json.loads((_RESULTS / "scaling.json").read_text())
    rows = [[row["scenario"], f"{row['hours']:,.1f}", f"{row['share_useful']:.0%}"] for row in result["simulated"]]
    return table([f"{result['hours_of_video']:,.0f} hours of video on", "hours", "of worker time into rows"], rows)


def scale() -> str:
    """CPU and wall seconds by question and number of rows: of a new process's answer, and of a second answer."""
    by_rows = json.loads((_RESULTS / "scale.json").read_text())
    found = [by_rows[key] for key in sorted(by_rows, key=int)]
    head = ["question", *(f"{facts['rows'] / 1e6:.0f} million rows" for facts in found)]
    rows = [
        [name, *(" · ".join(f"{facts['questions'][name][key]:.2f}" for key in _TAKEN) for facts in found)]
        for name in found[0]["questions"]
    ]
    rows.append(["load average", *(str(facts["load_average"]) for facts in found)])
    rows.append(["observations, bytes a row", *(str(facts["bytes_a_row"]) for facts in found)])
    return table(head, rows)


def dashboard() -> str:
    by_rows = json.loads((_RESULTS / "dashboard.json").read_text())
    found = [by_rows[key] for key in sorted(by_rows, key=int)]
    head = ["seconds until it shows", *(f"{facts['faces'] / 1e6:.1f} million faces" for facts in found)]
    rows = [
        [name, *(" · ".join(f"{seconds:.2f}" for seconds in facts["seconds"][name]) for facts in found)]
        for name in found[0]["seconds"]
    ]
    rows.append(["load average", *(str(facts["load_average"]) for facts in found)])
    return table(head, rows)


#: Fewer faces than this say nothing of an accuracy.
_FEW_FACES = 20


def harm() -> str:
    """What each harm to the picture costs: faces found, and accuracy."""
    result = json.loads((_RESULTS / "quality.json").read_text())
    named = {"original frames": result["road"]["frames"], "the same, as one H.264 file": result["road"]["H.264 file"]}
    named |= result["harm"]
    named |= {f"picture of {side}": figures for side, figures in result["size"].items()}
    named |= {f"blur ({sigma})": figures for sigma, figures in result["blur"].items() if sigma != "sigma 3.0 px"}
    rows = []
    for name, of in named.items():
        n_ok = result["n"] * of["found"] * of["quality_ok"]
        shown = [of["found"], of["accuracy_where_found"], of["agreement_with_unharmed"]]
        accuracy_ok = f"{of['accuracy_quality_ok']:.2f}" if n_ok >= _FEW_FACES else ""
        rows.append(
            [
                name,
                *(f"{share:.2f}" for share in shown),
                f"{of['face_px']:.0f}",
                f"{of['sharpness']:.3f}",
                f"{of['quality_ok']:.2f}",
                accuracy_ok,
            ]
        )
    head = [
        "",
        "found",
        "accuracy where found",
        "agreement with the original",
        "face, px",
        "sharpness",
        "`quality_ok`",
        "accuracy of those",
    ]
    return table(head, rows)


def ablation() -> str:
    result = json.loads((_RESULTS / "ablation.json").read_text())

    def percent(facts: dict[str, Any]) -> str:
        return f"{100 * facts['mean']:.1f}" + ("" if facts["sd"] is None else f" ± {100 * facts['sd']:.1f}")

    rows = []
    for row in result["rows"]:
        gains = [percent(row[name]["gain"]) if row["over"] else "" for name in ("accuracy", "mean_recall")]
        rows.append(
            [
                row["variant"],
                row["over"] or "",
                str(len(row["seeds"])),
                percent(row["accuracy"]),
                gains[0],
                percent(row["mean_recall"]),
                gains[1],
                f"{row['n_parameters'] / 1e6:.1f}",
                str(row["cpu_s"]),
            ]
        )
    head = [
        "variant",
        "built on",
        "seeds",
        "accuracy, %",
        "gain",
        "mean recall, %",
        "gain",
        "parameters, M",
        "CPU s",
    ]
    return table(head, rows)


def main() -> None:
    pages = {
        "README.md": (accuracy, headline),
        "docs/model_card.md": (accuracy, report),
        "docs/performance.md": (detection, speed, isolation, short_clips, scale, dashboard),
        "docs/scaling.md": (scaling,),
        "docs/training.md": (ablation, harm),
    }
    for name, tables in pages.items():
        page = (_ROOT / name).read_text()
        for make in tables:
            mark, end = f"<!-- {make.__name__} -->", f"<!-- end of {make.__name__} -->"
            before, _, rest = page.partition(mark)
            page = f"{before}{mark}\n{make()}\n{end}{rest.partition(end)[2]}"
        (_ROOT / name).write_text(page)


if __name__ == "__main__":
    main()
