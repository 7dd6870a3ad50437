// Renders Go chat templates as Ollama does: one JSON request a line on stdin, one JSON answer a line on stdout.
//
//	{"template":..., "messages":[...], "tools":[...], "think":null|bool, "date":"2026-01-02"} -> {"text":...} or {"error":...}
//
// What a template sees follows template/template.go and api/types.go of Ollama, the same from v0.17.1 to
// v0.24.0: messages of one role in a row become one message (tool messages do not), all system
// messages together are .System, arguments and parameters are maps, and so come in the order of their names.
// tests/golden/modelfile/make.py compares this program with Ollama's own package.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"text/template"
	"time"
)

type call struct {
	ID       string `json:"id"`
	Function struct {
		Index     int            `json:"-"`
		Name      string         `json:"name"`
		Arguments map[string]any `json:"arguments"`
	} `json:"function"`
}

type message struct {
	Role       string   `json:"role"`
	Content    string   `json:"content"`
	Thinking   string   `json:"thinking"`
	Images     [][]byte `json:"-"`
	ToolCalls  []call   `json:"tool_calls"`
	ToolName   string   `json:"tool_name"`
	ToolCallID string   `json:"tool_call_id"`
}

// kind is the type of a parameter: one name, or several.
type kind []string

func (k *kind) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*k = kind{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(k))
}

func (k kind) MarshalJSON() ([]byte, error) {
	if len(k) == 1 {
		return json.Marshal(k[0])
	}
	return json.Marshal([]string(k))
}

func (k kind) String() string {
	if len(k) == 1 {
		return k[0]
	}
	return "[" + strings.Join(k, " ") + "]"
}

// property has the fields that all releases know.
type property struct {
	AnyOf       []property           `json:"anyOf,omitempty"`
	Type        kind                 `json:"type,omitempty"`
	Items       any                  `json:"items,omitempty"`
	Description string               `json:"description,omitempty"`
	Enum        []any                `json:"enum,omitempty"`
	Properties  *map[string]property `json:"properties,omitempty"`
}

type tool struct {
	Type     string `json:"type"`
	Items    any    `json:"items,omitempty"`
	Function struct {
		Name        string `json:"name"`
		Description string `json:"description"`
		Parameters  struct {
			Type       string              `json:"type"`
			Defs       any                 `json:"$defs,omitempty"`
			Items      any                 `json:"items,omitempty"`
			Required   []string            `json:"required,omitempty"`
			Properties map[string]property `json:"properties"`
		} `json:"parameters"`
	} `json:"function"`
}

type request struct {
	Template string    `json:"template"`
	Messages []message `json:"messages"`
	Tools    []tool    `json:"tools"`
	Think    *bool     `json:"think"`
	Date     string    `json:"date"`
}

type answer struct {
	Text  *string `json:"text,omitempty"`
	Error string  `json:"error,omitempty"`
}

func asJSON(v any) string {
	data, _ := json.Marshal(v)
	return string(data)
}

// merged joins messages of one role in a row, and gives all system messages as one text.
func merged(all []message) (string, []*message) {
	var system []string
	var out []*message
	for i := range all {
		m := &all[i]
		if m.Role == "system" {
			system = append(system, m.Content)
		}
		if n := len(out); n > 0 && m.Role != "tool" && out[n-1].Role == m.Role {
			out[n-1].Content += "\n\n" + m.Content
			continue
		}
		out = append(out, m)
	}
	return strings.Join(system, "\n\n"), out
}

func render(q request) (string, error) {
	day, err := time.Parse(time.DateOnly, q.Date)
	if err != nil {
		return "", err
	}
	t, err := template.New("").Option("missingkey=zero").Funcs(template.FuncMap{
		"json":             asJSON,
		"currentDate":      func(...string) string { return day.Format(time.DateOnly) },
		"yesterdayDate":    func(...string) string { return day.AddDate(0, 0, -1).Format(time.DateOnly) },
		"toTypeScriptType": func(any) string { return "any" },
	}).Parse(q.Template)
	if err != nil {
		return "", err
	}
	system, messages := merged(q.Messages)
	values := map[string]any{
		"System": system, "Messages": messages, "Tools": q.Tools, "Response": "",
		"Think": q.Think != nil && *q.Think, "ThinkLevel": "", "IsThinkSet": q.Think != nil,
	}
	var out bytes.Buffer
	err = t.Execute(&out, values)
	return out.String(), err
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 1<<20), 1<<26)
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for lines.Scan() {
		var q request
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			panic(err)
		}
		text, err := render(q)
		if err != nil {
			out.Encode(answer{Error: err.Error()})
			continue
		}
		out.Encode(answer{Text: &text})
	}
}
