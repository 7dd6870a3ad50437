// Asks Ollama's own packages about chat templates: one JSON request a line on stdin, one JSON answer a line on stdout.
//
//	{"op":"render","template":...,"messages":[...],"tools":[...],"think":null|bool} -> {"text":...} or {"error":...}
//	{"op":"facts","template":...}                        -> {"tags":[opening,closing],"vars":[...]}
//	{"op":"parse","template":...,"tools":[...],"output":...} -> {"calls":[...],"text":...}
//
// make_render.py beside this file says how to build it.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/template"
	"github.com/ollama/ollama/thinking"
	"github.com/ollama/ollama/tools"
)

type request struct {
	Op, Template, Output string
	Messages             []api.Message
	Tools                api.Tools
	Think                *bool
}

type answer struct {
	Text  *string        `json:"text,omitempty"`
	Tags  []string       `json:"tags,omitempty"`
	Vars  []string       `json:"vars,omitempty"`
	Calls []api.ToolCall `json:"calls,omitempty"`
	Error string         `json:"error,omitempty"`
}

func ask(q request) (a answer, err error) {
	t, err := template.Parse(q.Template)
	if err != nil {
		return a, err
	}
	var text string
	switch q.Op {
	case "facts":
		opening, closing := thinking.InferTags(t.Template)
		a.Tags = []string{opening, closing}
		a.Vars, err = t.Vars()
		return a, err
	case "parse":
		a.Calls, text = tools.NewParser(t.Template, q.Tools).Add(q.Output)
	case "render":
		v := template.Values{Messages: q.Messages, Tools: q.Tools}
		if q.Think != nil {
			v.Think, v.IsThinkSet = *q.Think, true
		}
		var b bytes.Buffer
		err = t.Execute(&b, v)
		text = b.String()
	default:
		panic(q.Op)
	}
	a.Text = &text
	return a, err
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 1<<26)
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for in.Scan() {
		var q request
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			panic(err)
		}
		a, err := ask(q)
		if err != nil {
			a = answer{Error: err.Error()}
		}
		out.Encode(a)
	}
}
