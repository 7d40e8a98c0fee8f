// Whether a run has to stop: stop_unless_finite() of fast/adamw.py.
//
// Replaces    8 launches for numbers of one entry
// Moves       nothing: 2 us, predicted (not measured), the time of a launch
// Threads     one

// found_inf keeps the first step whose loss or norm is not finite: *step_there, or else step.  A
// number minus itself is 0, but for NaN and infinity.
extern "C" __global__ void stop_unless_finite(
    const real *loss, const double *norm, long long *found_inf, bool *skip,
    const uint64 *step_there, long long step)
{
    bool finite = *loss - *loss == 0 && *norm - *norm == 0;
    if (*found_inf == 0 && !finite) *found_inf = step_there ? (long long)*step_there : step;
    *skip = *found_inf != 0;
}
