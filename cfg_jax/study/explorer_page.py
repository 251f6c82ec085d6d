"""The page of the explorer, made with gradio (extra `[explore]`) and served from this machine.

Its fonts are the reader's, nothing about its use is reported, and a content security policy keeps
the browser from loading anything from elsewhere.
"""

import functools
import html
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from cfg_jax.io.text import extra, one_line
from cfg_jax.sampling.model import Model
from cfg_jax.study import explorer, figures
from cfg_jax.study.explorer import Choice

FIRST_LABELS = 4
MOST_LABELS = 10
_SECONDS_KEPT = 600  # of a picture that was shown
_POLICY = (
    "default-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; frame-ancestors 'self'"
)
_STYLE = """
.picture img { background: white; border: 1px solid #d5d8dd; border-radius: 8px; padding: 8px; }
.error { border-left: 4px solid #c02b3a; padding: 0.2rem 0.8rem; margin: 0; }
body:has(.error) :is(.picture, #command) { opacity: 0.25; }
@media (max-width: 720px) {
  #page { display: flex; flex-direction: column; flex-wrap: nowrap; }
  #controls, #pictures { display: contents; }
  #first { order: 0; } #drawn { order: 1; } #others { order: 2; } #along { order: 3; }
  /* The plots keep a readable size and scroll; gradio hides what is wider. */
  #telemetry { overflow-x: auto !important; }
  #telemetry .image-container { min-width: 46rem; }
}
"""


def load_gradio() -> Any:
    """The library, with its reports of use switched off; ValueError if it is not installed."""
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_TEMP_DIR": _pictures().name,
    }
    try:
        import gradio
    except ImportError:
        raise ValueError(
            f"the explorer needs gradio, not installed: run {extra('explore')}"
        ) from None
    return gradio


@functools.cache
def _pictures() -> tempfile.TemporaryDirectory:
    """A folder that only this user reads, removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="cfg_jax_explorer_")


def page(
    model: Model,
    *,
    name: str,
    solvers: Sequence[str],
    num_steps: Sequence[int],
    command: Callable[[Choice], str],
) -> Any:
    """The page of a model, a gradio Blocks; every change shows the pictures of its `Choice`.

    A choice that cannot be drawn is answered by a line above the pictures, which are dimmed.
    """
    gr = load_gradio()
    with gr.Blocks(
        title="cfg_jax explorer",
        analytics_enabled=False,
        delete_cache=(_SECONDS_KEPT, _SECONDS_KEPT),
    ) as blocks:
        gr.HTML(_element("h1", f"Guidance of {name}, step {model.step}"), padding=False)
        with gr.Row(elem_id="page"):
            with gr.Column(scale=1, min_width=280, elem_id="controls"):
                inputs = _controls(gr, model, solvers, num_steps)
            with gr.Column(scale=3, min_width=320, elem_id="pictures"):
                outputs = _places(gr)

        draws = functools.partial(_draws, gr.skip(), model, command)
        follows = functools.partial(_follows, gr.skip(), model)
        # In two events, so that the samples of the next choice wait for no plot of this one.
        options = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": 1}
        drawn = gr.on(
            [blocks.load, *(each.change for each in inputs)],
            draws,
            inputs,
            outputs[:3],
            trigger_mode="always_last",
            **options,
        )
        drawn.success(
            follows,
            inputs,
            outputs[3:],
            trigger_mode="always_last",
            **options,
        )
    return blocks


def _draws(unchanged: Any, model: Model, command: Callable[[Choice], str], *values: Any) -> tuple:
    """Error, samples and command of the page's values; pictures stay beside an error."""
    try:
        choice = choice_of(*values)
        return "", explorer.samples(model, choice), command(choice)
    except (ValueError, FloatingPointError) as error:
        said = f"{one_line(error)}. The pictures are those of the choice before."
        return _element("p", said, "error"), unchanged, unchanged


def _follows(unchanged: Any, model: Model, *values: Any) -> tuple:
    """Trajectory and telemetry of the page's values; both stay where `_draws` shows an error."""
    try:
        choice = choice_of(*values)
        return explorer.trajectory(model, choice), explorer.telemetry(model, choice)
    except (ValueError, FloatingPointError):
        return unchanged, unchanged


def _controls(gr: Any, model: Model, solvers: Sequence[str], num_steps: Sequence[int]) -> list:
    """The controls, in the order of the arguments of `choice_of`."""
    low, high = explorer.interval_of_all_calls(model)
    numbered = [(name, number) for number, name in enumerate(model.label_names)]
    with gr.Column(elem_id="first"):
        w = gr.Slider(-1, 8, 1, step=0.1, label="Guidance weight w")
    with gr.Column(elem_id="others"):
        labels = gr.Dropdown(
            numbered,
            value=list(range(min(FIRST_LABELS, len(numbered)))),
            multiselect=True,
            max_choices=MOST_LABELS,
            label="Classes",
        )
        return [
            labels,
            w,
            gr.Slider(low, high, low, step=0.5, label="Guided from log-SNR"),
            gr.Slider(low, high, high, step=0.5, label="Guided to log-SNR"),
            gr.Dropdown(
                list(solvers),
                value=solvers[0],
                label="Solver",
                info=explorer.left_out(model, solvers, num_steps) or None,
            ),
            gr.Radio(list(num_steps), value=num_steps[0], label="Network calls T"),
            gr.Slider(0, 99, 0, step=1, label="Seed"),
        ]


def _places(gr: Any) -> list:
    """Places of an error, samples, command, trajectory and telemetry."""
    with gr.Column(elem_id="drawn"):
        error = gr.HTML(padding=False)
        samples = _picture(gr, "Samples at w = 0 and at w", "samples")
        command = gr.Code(
            language="shell",
            label="The command that draws these samples",
            interactive=False,
            show_line_numbers=False,
            wrap_lines=True,
            lines=2,
            elem_id="command",
        )
    with gr.Column(elem_id="along"):
        trajectory = _picture(gr, "Estimates x_hat along the calls", "trajectory")
        telemetry = _picture(gr, "Guidance along the calls", "telemetry")
        gr.Markdown(_explanation())
    return [error, samples, command, trajectory, telemetry]


def _explanation() -> str:
    """Meaning of the plots of telemetry, in Markdown."""
    lines = [
        "Calls go from noise at the left, where log-SNR, log(signal / noise variance), is low, to "
        "the sample at the right. c and u are eps_hat with and without the class, x_c and x_u the "
        "estimates of the clean image from them, x_hat is the guided estimate.\n"
    ]
    lines += [f"- `{figures.MEASURED[name]}`: {said}" for name, said in explorer.MEANINGS.items()]
    return "\n".join(lines)


def _element(tag: str, text: str, kind: str = "") -> str:
    """An element of HTML with this text."""
    of_kind = f' class="{kind}"' if kind else ""
    return f"<{tag}{of_kind}>{html.escape(text)}</{tag}>"


def _picture(gr: Any, label: str, name: str) -> Any:
    """A place for a picture below its heading; PNG, as another format would change its pixels."""
    gr.Markdown(f"### {label}")  # a label would cover the picture
    return gr.Image(
        alt_text=label,
        format="png",
        interactive=False,
        elem_id=name,
        elem_classes="picture",
        show_label=False,
        buttons=[],
    )


def choice_of(
    labels: Sequence[int], w: float, low: float, high: float, solver: str, num_steps: int, seed: int
) -> Choice:
    """The choice of the page's values; ValueError for an empty box or interval, or many classes."""
    if None in (w, low, high, solver, num_steps, seed):
        raise ValueError("a box is empty: type a number")
    if len(labels or ()) > MOST_LABELS:  # the limit of the control holds in the browser alone
        raise ValueError(f"{len(labels)} classes: choose {MOST_LABELS} at most")
    if low >= high:
        raise ValueError(f"guided from {low:g} to {high:g}: move the first below the second")
    numbers = tuple(int(number) for number in labels or ())
    return Choice(numbers, float(w), (float(low), float(high)), solver, int(num_steps), int(seed))


def serve(blocks: Any, host: str, port: int) -> str:
    """Serves the page in threads and returns its address; OSError for a port in use."""
    gr = load_gradio()
    from starlette.middleware import Middleware

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        max_file_size=1,  # nothing is to be uploaded
        theme=gr.themes.Default(**fonts),
        css=_STYLE,
        app_kwargs={"middleware": [Middleware(_Closed)]},
    )
    return address


class _Closed:
    """An ASGI application whose pages load nothing from other servers."""

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def closed(message: Any) -> None:
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", _POLICY.encode())
                message = message | {"headers": [*message["headers"], header]}
            await send(message)

        await self._app(scope, receive, closed)
