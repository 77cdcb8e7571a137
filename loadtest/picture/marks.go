package picture

import (
	"fmt"
	"image/color"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/llmproxy/llmproxy/loadtest/result"
)

var eventColour = color.RGBA{R: 0x99, G: 0x00, B: 0x22, A: 255}

func textStyle(size vg.Length, c color.Color) draw.TextStyle {
	return draw.TextStyle{Color: c, Font: sans(size), Handler: text.Plain{Fonts: font.DefaultCache}}
}

// moments draws the events as vertical lines through a panel; in the first
// panel their names stand above it.
type moments struct {
	events []result.Event
	named  bool
}

// Plot implements plot.Plotter.
func (m *moments) Plot(c draw.Canvas, p *plot.Plot) {
	x, _ := p.Transforms(&c)
	for _, e := range m.events {
		at := x(float64(e.At) / 1000)
		c.StrokeLine2(stroke(eventColour, 0.7, 2, 2), at, c.Min.Y, at, c.Max.Y)
	}
	if m.named {
		m.name(c, x)
	}
}

// name writes the names, each to the right of its line. One that would run into
// later lines stands above all that these hold up.
func (m *moments) name(c draw.Canvas, x func(float64) vg.Length) {
	style := textStyle(9, eventColour)
	levels := make([]int, len(m.events))
	for i, e := range slices.Backward(m.events) {
		at := x(float64(e.At) / 1000)
		begin := min(at, c.Max.X+legendWidth-margin-style.Width(e.Name))
		for later := i + 1; later < len(m.events); later++ {
			if x(float64(m.events[later].At)/1000) < begin+style.Width(e.Name)+4 {
				levels[i] = max(levels[i], levels[later]+1)
			}
		}
		y := c.Max.Y + 4 + vg.Length(levels[i])*12
		c.StrokeLine2(stroke(eventColour, 0.7, 2, 2), at, c.Max.Y, at, y)
		c.FillText(style, vg.Point{X: begin, Y: y}, e.Name)
	}
}

// secondTicks marks every tenth second, or every one of a short run.
type secondTicks struct{}

// Ticks implements plot.Ticker.
func (secondTicks) Ticks(least, most float64) []plot.Tick {
	step := 10.0
	if most <= 15 {
		step = 1
	}
	var out []plot.Tick
	for v := least; v <= most; v += step {
		out = append(out, plot.Tick{Value: v, Label: fmt.Sprintf("%.0f", v)})
	}
	return out
}

// wholeTicks marks about five whole numbers.
type wholeTicks struct{}

// Ticks implements plot.Ticker.
func (wholeTicks) Ticks(_, most float64) []plot.Tick {
	step := 1.0
	for i := 0; most/step > 6; i++ {
		step *= []float64{2, 2.5, 2}[i%3] // 1 2 5 10 20 50
	}
	var out []plot.Tick
	for v := 0.0; v <= most; v += step {
		out = append(out, plot.Tick{Value: v, Label: fmt.Sprintf("%.0f", v)})
	}
	return out
}

// timeTicks marks 1, 2 and 5 of each power of ten, in seconds.
type timeTicks struct{}

// Ticks implements plot.Ticker.
func (timeTicks) Ticks(least, most float64) []plot.Tick {
	var out []plot.Tick
	for decade := math.Pow(10, math.Floor(math.Log10(least))); decade <= most; decade *= 10 {
		for _, n := range []float64{1, 2, 5} {
			v := n * decade
			if v < least || v > most {
				continue
			}
			label := fmt.Sprintf("%g s", math.Round(v*1000)/1000)
			if v < 1 {
				label = fmt.Sprintf("%.0f ms", v*1000)
			}
			out = append(out, plot.Tick{Value: v, Label: label})
		}
	}
	return out
}
