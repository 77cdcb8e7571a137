// Package picture draws a run under load as a timeline.
package picture

import (
	"bytes"
	"fmt"
	"image/color"
	"maps"
	"math"
	"os"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/llmproxy/llmproxy/loadtest/result"
)

const (
	width, height = 1000, 840 // points
	margin        = 10
	head          = 84  // above the first panel: title and names of events
	legendWidth   = 170 // to the right of the panels
)

var sideColours = [...]color.Color{
	color.RGBA{R: 0x1b, G: 0x6c, B: 0xa8, A: 255}, // LLMProxy
	color.RGBA{R: 0xd9, G: 0x5f, B: 0x02, A: 255}, // nginx
}

// backendColours are told apart by most people, eight at a time.
var backendColours = [...]color.Color{
	color.RGBA{R: 0x00, G: 0x72, B: 0xb2, A: 255},
	color.RGBA{R: 0xe6, G: 0x9f, B: 0x00, A: 255},
	color.RGBA{R: 0x00, G: 0x9e, B: 0x73, A: 255},
	color.RGBA{R: 0xcc, G: 0x79, B: 0xa7, A: 255},
	color.RGBA{R: 0xd5, G: 0x5e, B: 0x00, A: 255},
	color.RGBA{R: 0x56, G: 0xb4, B: 0xe9, A: 255},
	color.RGBA{R: 0x66, G: 0x66, B: 0x66, A: 255},
	color.RGBA{R: 0x8c, G: 0x56, B: 0x4b, A: 255},
}

// Draw writes the timeline as SVG: time to the first token, failures, and what
// each backend has in flight, over the seconds of the run, with its events.
func Draw(r *result.Result, path string) error {
	var panels []panel
	panels = append(panels, firstTokens(r), failures(r))
	panels = append(panels, flights(r)...)
	rows := make([][]*plot.Plot, len(panels))
	for i := range panels {
		p := panels[i].plot
		p.X.Min, p.X.Max = 0, float64(seconds(r))
		p.X.Tick.Marker = secondTicks{}
		if i == len(panels)-1 {
			p.X.Label.Text = "seconds since the load began"
		}
		p.Add(&moments{events: r.Events, named: i == 0})
		rows[i] = []*plot.Plot{p}
	}
	svg := vgsvg.New(width, height)
	dc := draw.New(svg)
	dc.SetColor(color.White)
	dc.Fill(dc.Rectangle.Path())
	tiles := draw.Tiles{
		Rows: len(panels), Cols: 1, PadY: 14,
		PadLeft: margin, PadRight: legendWidth, PadTop: head, PadBottom: margin,
	}
	for i, cells := range plot.Align(rows, tiles, dc) {
		panels[i].plot.Draw(cells[0])
		panels[i].drawLegend(dc, cells[0])
	}
	write(dc, 13, 0, fmt.Sprintf("Scenario %d: %s", r.Scenario, r.Title))
	write(dc, 9, 18, r.Date+", "+r.Commit+", "+r.Machine)

	var out bytes.Buffer
	if _, err := svg.WriteTo(&out); err != nil {
		return fmt.Errorf("cannot draw the picture: %w", err)
	}
	if err := os.WriteFile(path, portable(out.Bytes()), 0o644); err != nil {
		return fmt.Errorf("cannot write the picture: %w", err)
	}
	return nil
}

// portable names fonts that readers have: Arial is as wide as Liberation Sans.
func portable(svg []byte) []byte {
	return bytes.ReplaceAll(svg, []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif"))
}

func sans(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}

// write puts a line of text at the top of the picture.
func write(dc draw.Canvas, size, down vg.Length, text string) {
	style := textStyle(size, color.Black)
	style.YAlign = draw.YTop
	dc.FillText(style, vg.Point{X: margin, Y: dc.Max.Y - margin - down}, text)
}

// panel is one plot and what stands beside it.
type panel struct {
	name   string
	plot   *plot.Plot
	legend plot.Legend
}

func newPanel(name, unit string) panel {
	p := plot.New()
	p.Y.Label.Text = unit
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Label.TextStyle.Font = sans(10)
		a.Tick.Label.Font = sans(9)
		a.Color, a.Tick.Color = color.Gray{Y: 120}, color.Gray{Y: 120}
		a.Tick.LineStyle.Color, a.LineStyle.Color = color.Gray{Y: 120}, color.Gray{Y: 120}
	}
	grid := plotter.NewGrid()
	grid.Vertical.Color = nil
	grid.Horizontal.Color = color.Gray{Y: 228}
	p.Add(grid)
	l := plot.NewLegend()
	l.TextStyle.Font = sans(9)
	l.Top, l.Left, l.ThumbnailWidth, l.Padding = true, true, 18, 2
	return panel{name: name, plot: p, legend: l}
}

func (p *panel) drawLegend(dc, beside draw.Canvas) {
	at := vg.Point{X: beside.Max.X + 10, Y: beside.Max.Y}
	style := textStyle(10, color.Black)
	style.YAlign = draw.YTop
	dc.FillText(style, at, p.name)
	p.legend.Draw(draw.Canvas{Canvas: dc.Canvas, Rectangle: vg.Rectangle{
		Min: vg.Point{X: at.X, Y: beside.Min.Y},
		Max: vg.Point{X: dc.Max.X - margin, Y: at.Y - 16},
	}})
}

// line adds a line over the seconds; NaN leaves a gap.
func (p *panel) line(name string, values []float64, style draw.LineStyle, shift float64) {
	var piece plotter.XYs
	named := false
	flush := func() {
		if len(piece) == 0 {
			return
		}
		if len(piece) == 1 {
			piece = append(piece, plotter.XY{X: piece[0].X + 0.5, Y: piece[0].Y}) // or it would not show
		}
		l := &plotter.Line{XYs: piece, LineStyle: style}
		p.plot.Add(l)
		if !named {
			p.legend.Add(name, l)
			named = true
		}
		piece = nil
	}
	for i, v := range values {
		if math.IsNaN(v) {
			flush()
			continue
		}
		piece = append(piece, plotter.XY{X: float64(i) + shift, Y: v})
	}
	flush()
}

func stroke(c color.Color, w vg.Length, dashes ...vg.Length) draw.LineStyle {
	return draw.LineStyle{Color: c, Width: w, Dashes: dashes}
}

// firstTokens is the panel of the time to the first token of the requests that
// were due in each second.
func firstTokens(r *result.Result) panel {
	p := newPanel("time to the first token", "log scale")
	p.plot.Y.Scale, p.plot.Y.Tick.Marker = plot.LogScale{}, timeTicks{}
	p.plot.Y.Min, p.plot.Y.Max = 0.1, 1
	for i, s := range r.Sides {
		p50, p99 := perSecond(r, s)
		p.line(s.Name+" p50", p50, stroke(sideColours[i], 1.6), 0.5)
		p.line(s.Name+" p99", p99, stroke(sideColours[i], 1, 3, 2), 0.5)
	}
	p.plot.Y.Max *= 1.1
	return p
}

// perSecond is p50 and p99 of the first tokens, in seconds.
func perSecond(r *result.Result, s *result.Side) (p50, p99 []float64) {
	due := make([][]int, seconds(r))
	for i, at := range s.At {
		if s.TTFT[i] >= 0 {
			due[at/1000] = append(due[at/1000], max(1, s.TTFT[i]))
		}
	}
	for _, values := range due {
		if len(values) == 0 {
			p50, p99 = append(p50, math.NaN()), append(p99, math.NaN())
			continue
		}
		p50 = append(p50, float64(result.Quantile(values, 0.5))/1000)
		p99 = append(p99, float64(result.Quantile(values, 0.99))/1000)
	}
	return p50, p99
}

// seconds is the length of the run, up to the last failure.
func seconds(r *result.Result) int {
	last := r.Lasts - 1
	for _, s := range r.Sides {
		for i, at := range s.At {
			if s.Outcome[i] != result.Answered && s.Outcome[i] != result.Limited {
				last = max(last, at+s.Took[i])
			}
		}
	}
	return last/1000 + 1
}

// failures is the panel of what failed in each second.
func failures(r *result.Result) panel {
	p := newPanel("failures", "requests per second")
	p.plot.Y.Min, p.plot.Y.Max = 0, 1
	p.plot.Y.Tick.Marker = wholeTicks{}
	for i, s := range r.Sides {
		early, late := make([]float64, seconds(r)), make([]float64, seconds(r))
		for n, at := range s.At {
			switch s.Outcome[n] {
			case result.Refused, result.GaveUp:
				early[(at+s.Took[n])/1000]++
			case result.Cut:
				late[(at+s.Took[n])/1000]++
			}
		}
		if s.Missing == "" {
			p.line(s.Name+", no token", early, stroke(sideColours[i], 1.6), 0.5)
			p.line(s.Name+", mid-answer", late, stroke(sideColours[i], 1, 3, 2), 0.5)
		}
	}
	p.plot.Y.Max *= 1.05
	return p
}

// flights are the panels of what is in flight, one a side, on one scale.
func flights(r *result.Result) []panel {
	var out []panel
	most := 1.0
	for _, s := range r.Sides {
		if s.Missing != "" {
			continue
		}
		p := newPanel("in flight, "+s.Name, "requests per backend")
		p.plot.Y.Min = 0
		p.plot.Y.Tick.Marker = wholeTicks{}
		for n, name := range slices.Sorted(maps.Keys(s.InFlight)) {
			values := []float64{0}
			for _, v := range s.InFlight[name] {
				if v < 0 {
					values = append(values, math.NaN())
					continue
				}
				most = max(most, float64(v))
				values = append(values, float64(v))
			}
			style := stroke(backendColours[n%len(backendColours)], 1.2)
			if n >= len(backendColours) {
				style.Dashes = []vg.Length{4, 2}
			}
			p.line(name, values, style, 0)
		}
		out = append(out, p)
	}
	for i := range out {
		out[i].plot.Y.Max = most * 1.05
	}
	return out
}
