// Asks Ollama's own packages: one JSON request a line on stdin, one JSON answer a line on stdout.
//
//	{"op":"parse","data":"<base64>"}           -> {"commands":[[name,args],...]} or {"error":...}
//	{"op":"parse32","data":"<base64>"}         -> the same from the newer parser
//	{"op":"param","name":...,"value":...}      -> {} or {"error":...}
//	{"op":"semver","value":...}                -> {} or {"error":...}
//	{"op":"template","value":...}              -> {} or {"error":...}
//
// make.py beside this file says how to build it.
package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"

	"golang.org/x/mod/semver"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/parser"
	"github.com/ollama/ollama/template"
	newer "github.com/ollama/ollama/tqparser"
)

type request struct {
	Op, Data, Name, Value string
}

type answer struct {
	Commands [][2]string `json:"commands,omitempty"`
	Error    string      `json:"error,omitempty"`
}

func ask(q request) (a answer, err error) {
	switch q.Op {
	case "parse", "parse32":
		data, err := base64.StdEncoding.DecodeString(q.Data)
		if err != nil {
			panic(err)
		}
		if q.Op == "parse" {
			m, err := parser.ParseFile(bytes.NewReader(data))
			if err != nil {
				return a, err
			}
			for _, c := range m.Commands {
				a.Commands = append(a.Commands, [2]string{c.Name, c.Args})
			}
			return a, nil
		}
		m, err := newer.ParseFile(bytes.NewReader(data))
		if err != nil {
			return a, err
		}
		for _, c := range m.Commands {
			a.Commands = append(a.Commands, [2]string{c.Name, c.Args})
		}
		return a, nil
	case "param":
		_, err = api.FormatParams(map[string][]string{q.Name: {q.Value}})
		return a, err
	case "semver":
		if v := q.Value; !semver.IsValid(v) && (len(v) > 0 && v[0] == 'v' || !semver.IsValid("v"+v)) {
			return a, errors.New("not a version")
		}
		return a, nil
	case "template":
		_, err := template.Parse(q.Value)
		return a, err
	}
	panic(q.Op)
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
