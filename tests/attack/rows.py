"""The rows of an attack on this program: number -> what a hostile input must not do."""

ROWS = {
    1: "the page returns the contents of files",
    2: "wrong passwords lock out other accounts",
    3: "half-open connections stop the login page",
    4: "sizes in a model's JSON files use up memory or time",
    5: "output replaces a device, a link or a file",
    6: "a switch of the wrong type is accepted",
    7: "an endless or blocking file is read as input",
    8: "a text too short for its evaluation is found after the work",
    9: "a declined question or a repeated name is an internal error",
    10: "a device or context that does not exist is queued",
    11: "forwarded headers of strangers are trusted",
    12: "terminal escapes reach the terminal",
    13: "arguments of the wrong type are an internal error of the page",
    14: "a failing library stops a request without an answer",
    15: "a damaged run has no way back",
    16: "odd arguments, settings and outputs are an internal error",
    17: "weights with NaN are found after the work",
    18: "a removed account stays connected; paths show without a login",
    19: "measurements, exit codes, limits and temporary folders",
}
