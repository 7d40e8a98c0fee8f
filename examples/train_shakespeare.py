"""Train a GPT on a text and watch it learn to write.

    python examples/train_shakespeare.py                  tiny Shakespeare, on a GPU if there is one
    python examples/train_shakespeare.py --device cpu     on a CPU: a small model, a minute
    python examples/train_shakespeare.py --device gpu     on a GPU: a larger model, the preset baby
    python examples/train_shakespeare.py --data my.txt    your own text, of one or more files
    python examples/train_shakespeare.py --resume         continue a run that was stopped
    python examples/train_shakespeare.py --open           open the report in a browser

Without an internet connection a built-in grammar writes the text.  The run leaves the model, its
metrics, samples, loss curve and report in a folder, and everything needed to resume.
"""

# This file is an example to read and to change.  It goes from a text to a trained model.
# gpt_numpy/train.py shows what happens in a step.  gpt_numpy/app/ reads the flags and writes the
# run folder.

import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback

import minigrad as mg
from gpt_numpy import GPT
from gpt_numpy.app import program
from gpt_numpy.app.trainer import Run, load, run_command, train_silently
from gpt_numpy.scale.train import train
from gpt_numpy.train import adamw, evaluate

SAMPLE_TOKENS = 240


def train_and_report(job, ranks):
    """Train as the flags ask; return the exit status.

    job     what the flags describe: the settings, the text and its tokenizer, the run folder
    ranks   the processes that mpirun started; without mpirun, this one
    """
    # The text, as ids.  To train on a text of your own, name it: --data my.txt, or --data - to read
    # standard input.  The tokenizer is saved in the run folder with the model.
    config, tokenizer = job.command, job.tokenizer
    train_ids, val_ids = job.train_ids, job.val_ids  # integers (N,)

    # The model and its optimizer, new or restored from the run folder.
    mg.manual_seed(config.seed)
    model = GPT(config.model(tokenizer.vocab_size)).to(config.device)
    optimizer = adamw(model, config)
    start_step = load(job, model, optimizer, ranks)

    # Each next(steps) makes a training step: the loop of gpt_numpy/train.py, shared by processes.
    steps = train(model, train_ids, config, ranks, optimizer, start_step)
    if ranks.rank > 0:
        return train_silently(steps)

    def measure():
        """Return the validation loss, and a text that the model writes."""
        val_loss = evaluate(model, val_ids, max_tokens=config.eval_tokens or None)
        try:
            ids = model.generate(job.prompt, SAMPLE_TOKENS, seed=config.seed)  # (1, T)
            return val_loss, tokenizer.decode(ids.numpy()[0])
        except FloatingPointError as error:  # the next step will report where this began
            return val_loss, f"({error})"

    # The loop.  Each step yields a StepResult: its number, loss, learning rate and gradient norm.
    with Run(job, model, optimizer, ranks) as run:
        if run.is_new:
            with run.evaluation():
                run.log_evaluation(0, *measure())
        for result in run.watch(steps):
            if run.is_evaluated(result.step):
                with run.evaluation():
                    run.log_evaluation(result.step, *measure(), result)
            elif result.step % config.log_every == 0:
                run.log_step(result)
        run.summarize()
    return run.end()


def main(arguments=None):
    """Run the command with these arguments, or those of the shell; return its exit status."""
    return run_command(train_and_report, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(program.run(main))
