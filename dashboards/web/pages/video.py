"""One video: player and curves in step, this moment, episodes, and what people said about it."""

from __future__ import annotations

from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, dcc, html

from dashboards.outputs.palette import EXPRESSION_COLOURS
from dashboards.web.data import video_facts
from dashboards.web.shell import chip, seconds_text
from dashboards.web.source import LakeSource
from storage.identity import stream_of_video
from storage.schema import EXPRESSIONS, PICTURE_KINDS, STILL
from storage.wording import counted

__all__ = ["OVER_PICTURE", "VALUES", "WINDOWS", "layout", "register"]

#: Faces whose curves are drawn at first: those seen longest.
_FACES_AT_FIRST = 3
_MAX_FACES = 60
_MAX_EPISODES = 400
WINDOWS = {0.0: "none", 0.2: "0.2 s", 0.5: "0.5 s", 1.0: "1 s", 3.0: "3 s", 10.0: "10 s"}
#: What curves show, and what is drawn over the picture.
VALUES = {
    "raw": "raw",
    "smooth": "smoothed",
    "baseline": "minus the face's own median",
    "quiet": "not while speaking",
}
OVER_PICTURE = {"boxes": "boxes", "names": "names", "expression": "expression"}
#: Hidden on the page of a single picture (app.css); they stay in the page because callbacks name them.
_OVER_TIME = "over-time"
_KEYS = {
    "Space": "play, pause",
    "← →": "one analysed frame back, on",
    "Shift + ← →": "5 seconds back, on",
    "p, n": "previous, next episode",
    "b": "boxes on, off",
    "z": "whole video in the curves",
    "e": "mark an event here (its text is in the field beside the button)",
    "x": "begin to exclude here; again: until here",
    "u": "take the last edit back",
    "?": "this list",
}
_KEYS_OF_PICTURE = {"b": _KEYS["b"], "x": "exclude the picture or the chosen face", "u": _KEYS["u"], "?": _KEYS["?"]}


def layout(source: LakeSource, video_id: str, *, can_explain: bool = False) -> list[Any]:
    """The page of a video, by its content; says so where the lake has none."""
    facts = video_facts(source, video_id)
    if facts is None:
        return _unknown(source, video_id)
    size = f"{facts['width_px']}x{facts['height_px']} {facts['codec']}"
    lines = [
        seconds_text(facts["duration_s"]),
        size,
        f"{facts['n_frames']:,} frames, {facts['n_frames_with_face']:,} with a face",
    ]
    keys = _KEYS
    if is_still := facts["container"] == STILL:
        keys = _KEYS_OF_PICTURE
        lines = [f"picture, {size}", counted(facts["n_faces"], "face")]
    lines.append(f"model {facts['model_id']}")
    return [
        html.Div(
            [
                _side(),
                html.Div(
                    [
                        html.H1(facts["title"], title=facts["path"]),
                        html.P(" · ".join(lines), className="faint"),
                        _stage(facts),
                        html.Div(
                            [
                                dcc.Graph(
                                    id="timeline",
                                    config={
                                        "displaylogo": False,
                                        "displayModeBar": False,
                                        "scrollZoom": True,
                                        "doubleClick": False,
                                        "responsive": True,
                                    },
                                    figure={
                                        "layout": {"paper_bgcolor": "#14181f", "plot_bgcolor": "#14181f", "height": 196}
                                    },
                                ),
                                html.Div(id="timeline-cursor"),
                            ],
                            id="timeline-holder",
                            className=_OVER_TIME,
                            **{"aria-label": "probabilities over time; click to go to a moment, drag to zoom"},
                        ),
                        html.P(
                            "Click: go there. Drag or wheel: zoom. Pale: uncertain. Golden: speaking. Gaps: no face.",
                            className=f"faint {_OVER_TIME}",
                        ),
                        _controls(facts, can_explain),
                        html.Div([_edits(is_still), _episodes(facts)], className="columns"),
                    ],
                    className="video-main",
                ),
            ],
            className="video-page still-page" if is_still else "video-page",
        ),
        dcc.Store(id="video-facts", data=_payload(facts)),
        html.Div(id="video-sink", hidden=True),
        html.Dialog(id="explain-dialog"),
        html.Dialog(
            [
                html.H2("Keys"),
                html.Dl([part for key, does in keys.items() for part in (html.Dt(key), html.Dd(does))]),
                html.P("Escape closes this.", className="faint"),
            ],
            id="key-help",
        ),
    ]


def _unknown(source: LakeSource, video_id: str) -> list[Any]:
    back = dcc.Link("Back to the library", href="/")
    if source.dicts("FROM raw.finished SELECT analysis_id WHERE video_id = ? LIMIT 1", [video_id], video_id=video_id):
        others = f"{source.model} has no scores of this video. Take another model at the head of the page. "
        return [html.H1("Not scored by this model"), html.P([others, back])]
    return [html.H1("Unknown video"), html.P(["The lake has no finished analysis of this video. ", back])]


def _payload(facts: dict[str, Any]) -> dict[str, Any]:
    """What the page's script needs to know."""
    kept = (
        "video_id",
        "file_name",
        "analysis_id",
        "faces_id",
        "start_s",
        "duration_s",
        "width_px",
        "height_px",
        "codec",
        "stream",
        "n_streams",
        "title",
    )
    starts = sorted({episode["start_s"] for episode in facts["episodes"]})
    is_picture = facts["container"] in PICTURE_KINDS
    return {name: facts[name] for name in kept} | {
        # browsers play the stream that the container calls the default, or the first: they are sure to agree on one
        "may_play": not is_picture and facts["stream"] == 0 and stream_of_video(facts["video_id"]) is None,
        "is_picture": is_picture,
        "is_still": facts["container"] == STILL,
        "classes": list(EXPRESSIONS),
        "colours": EXPRESSION_COLOURS,
        "tracks": [
            [track["track_id"], seconds_text(track["end_s"] - track["start_s"])]
            for track in facts["tracks"][:_MAX_FACES]
        ],
        "episode_starts": starts,
        "episodes": [list(episode.values()) for episode in facts["episodes"][:_MAX_EPISODES]],
    }


def _side() -> html.Aside:
    """The list beside the player, which the page's script fills: hundreds of components would take their time."""
    search = dcc.Input(id="side-search", type="search", placeholder="filter all videos by name")
    parts = [html.Label(["Videos", search]), html.Ul(id="side-list"), html.P(id="side-count", className="faint")]
    return html.Aside(parts, className="side")


def _stage(facts: dict[str, Any]) -> html.Div:
    ratio = {"aspectRatio": f"{max(facts['width_px'], 1)} / {max(facts['height_px'], 1)}"}
    player = html.Div(
        [
            html.Video(
                id="player",
                controls=True,
                preload="auto",
                **{"aria-label": "the video"},
                **({} if facts["container"] in PICTURE_KINDS else {"src": f"/media/{facts['video_id']}"}),
            ),
            html.Canvas(id="overlay", **{"aria-hidden": "true"}),
        ],
        id="player-holder",
        style=ratio,
    )
    moment = html.Aside(
        [html.P(id="moment-time", className=_OVER_TIME), html.P(id="moment-frame"), html.Div(id="moment-bars")],
        className="moment",
        **{"aria-label": "this moment"},
    )
    return html.Div(
        [html.Div([player, html.P(id="video-message", role="status")], className="screen"), moment], className="stage"
    )


def _controls(facts: dict[str, Any], can_explain: bool) -> html.Div:
    faces = [
        {
            "label": f"face {track['track_id']} ({seconds_text(track['end_s'] - track['start_s'])})",
            "value": track["track_id"],
        }
        for track in facts["tracks"][:_MAX_FACES]
    ]
    others = [
        {"label": row["model_id"], "value": row["analysis_id"]}
        for row in facts["analyses"]
        if row["analysis_id"] != facts["analysis_id"] and row["faces_id"] == facts["faces_id"]
    ]
    compare = html.Label(
        ["Other model, dotted", dcc.Dropdown(others, id="other-analysis", placeholder="none", searchable=False)],
        style={} if others else {"display": "none"},
    )
    return html.Div(
        [
            html.Fieldset(
                [
                    html.Legend("Curves"),
                    dcc.Checklist(
                        [{"label": chip(name), "value": name} for name in EXPRESSIONS],
                        list(EXPRESSIONS),
                        id="curve-options",
                        inline=True,
                    ),
                ],
                className=_OVER_TIME,
            ),
            html.Fieldset(
                [
                    html.Legend("Faces"),
                    dcc.Checklist(
                        faces, [face["value"] for face in faces[:_FACES_AT_FIRST]], id="track-options", inline=True
                    ),
                ],
                className=f"faces {_OVER_TIME}",
            ),
            html.Fieldset(
                [
                    html.Legend("Values"),
                    dcc.Checklist(
                        [{"label": text, "value": key} for key, text in VALUES.items()],
                        ["raw", "smooth"],
                        id="show-options",
                        inline=True,
                    ),
                    html.Label(
                        [
                            "Smoothing",
                            dcc.Dropdown(
                                [{"label": text, "value": value} for value, text in WINDOWS.items()],
                                0.5,
                                id="window",
                                clearable=False,
                                searchable=False,
                            ),
                        ],
                        className="inline",
                    ),
                    compare,
                ],
                className=_OVER_TIME,
            ),
            html.Fieldset(
                [
                    html.Legend("Over the picture"),
                    dcc.Checklist(
                        [{"label": text, "value": key} for key, text in OVER_PICTURE.items()],
                        list(OVER_PICTURE),
                        id="overlay-options",
                        inline=True,
                    ),
                ]
            ),
            html.Div(
                [
                    html.Button("whole video", className=_OVER_TIME, **{"data-does": "whole"}),
                    html.A("CSV of this view", id="download-csv", className="button", download=""),
                    html.Button("PNG of the curves", className=_OVER_TIME, **{"data-does": "png"}),
                    html.Button("clip of this view", className=_OVER_TIME, **{"data-does": "clip"}),
                    *([html.Button("why? (Grad-CAM)", **{"data-does": "explain"})] if can_explain else []),
                    html.Button("keys (?)", **{"data-does": "keys"}),
                ],
                className="buttons",
            ),
        ],
        className="controls",
    )


def _edits(is_still: bool) -> html.Section:
    """What people say. The page's script fills the lists of faces, since their names change."""

    def field(label: str, part: Any) -> html.Label:
        return html.Label([label, part], className="inline")

    def button(text: str, does: str, **more: str) -> html.Button:
        return html.Button(text, **{"data-does": does}, **more)

    def text(name: str, placeholder: str) -> dcc.Input:
        return dcc.Input(id=name, type="text", placeholder=placeholder)

    rows = [
        [
            field("Of", html.Select([html.Option("whole picture", value="")], id="edit-face")),
            button("somebody else from here on", "splitFace", className=_OVER_TIME),
            button("exclude (x)" if is_still else "exclude from / to here (x)", "exclude"),
        ],
        [field("Name", text("edit-name", "who it is")), button("name the face", "nameFace")],
        [
            field("Same person as", html.Select([], id="edit-other")),
            button("join the two faces", "mergeFace"),
            button("nobody who was found", "notFound"),
        ],
    ]
    event = [field("Event", text("edit-event", "what happens here")), button("mark an event (e)", "markEvent")]
    return html.Section(
        [
            html.H2("What you say about it"),
            *(html.Div(row, className="buttons") for row in rows),
            html.Div(event, className=f"buttons {_OVER_TIME}"),
            html.Ul(id="edit-list"),
            html.P(
                "Kept beside the scores, never in them. scores, episodes and seconds leave excluded spans out; a "
                "face that was split has a new number from there on.",
                className="faint",
            ),
        ]
    )


def _episodes(facts: dict[str, Any]) -> html.Section:
    n_episodes = len(facts["episodes"])
    note = []
    if n_episodes > _MAX_EPISODES:
        note = [html.P(f"{n_episodes - _MAX_EPISODES} more: SELECT * FROM episodes", className="faint")]
    if not n_episodes:
        note = [html.P("No expression leads for half a second or longer.", className="faint")]
    listed = html.Ol(id="episode-list", className="episodes")
    return html.Section([html.H2(f"Episodes ({n_episodes})"), listed, *note], className=_OVER_TIME)


def register(app: Dash) -> None:
    names = ("curve-options", "track-options", "show-options", "overlay-options", "window", "other-analysis")
    app.clientside_callback(
        ClientsideFunction("video", "show"),
        Output("video-sink", "children"),
        Input("video-facts", "data"),
        *(Input(name, "value") for name in names),
    )
