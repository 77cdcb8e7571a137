package main

import (
	"bytes"
	"cmp"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/llmproxy/llmproxy/bench/results"
)

// picture is a chart of one figure of all gateways.
type picture struct {
	Title, Path string
	svg         []byte
}

// A scale is logarithmic where the largest is more than this many times the
// smallest: the small ones would have no length.
const wide = 30

// pictures returns the charts of a run; one without a figure is left out.
func pictures(r *results.Run) ([]picture, error) {
	var all []picture
	for _, x := range []struct {
		file string
		f    figure
	}{
		{"cpu-request.svg", requestCPU},
		{"cpu-event.svg", streams[eventCPU]},
		{"memory-stream.svg", memory},
	} {
		drawn := barsOf(r, x.f)
		if len(drawn) == 0 {
			continue
		}
		title := strings.ToUpper(x.f.name[:1]) + x.f.name[1:] + ", " + x.f.unit
		svg, err := chart(title, drawn)
		if err != nil {
			return nil, fmt.Errorf("cannot draw %s: %w", x.file, err)
		}
		all = append(all, picture{Title: title, Path: resultsDir + "/" + x.file, svg: svg})
	}
	return all, nil
}

// barOf is one gateway's figure.
type barOf struct {
	peer  string
	value float64
}

// barsOf returns the gateways that have the figure, the smallest first.
func barsOf(r *results.Run, f figure) []barOf {
	var all []barOf
	for _, p := range r.Peers {
		v, ok := f.median(r, p.Name)
		if ok && v > 0 && p.Name != results.Direct {
			all = append(all, barOf{p.Name, v})
		}
	}
	slices.SortStableFunc(all, func(a, b barOf) int { return cmp.Compare(a.value, b.value) })
	return all
}

// axis turns a value into the length of its bar.
type axis struct {
	length func(float64) float64
	ticks  plot.Ticker
	end    float64
	kind   string
}

func axisFor(least, most float64) axis {
	if most <= wide*least {
		return axis{length: func(v float64) float64 { return v }, ticks: plot.DefaultTicks{}, end: most * 1.1}
	}
	// Bars begin at the power of ten below the smallest, and not so near to it
	// that it has no length.
	from := math.Floor(math.Log10(least) - 0.1)
	decades := math.Ceil(math.Log10(most)+0.1) - from
	var ticks plot.ConstantTicks
	for d := 0.0; d <= decades; d++ {
		ticks = append(ticks, plot.Tick{Value: d, Label: number(math.Pow(10, from+d))})
	}
	return axis{length: func(v float64) float64 { return math.Log10(v) - from }, ticks: ticks, end: decades, kind: ", logarithmic"}
}

// series splits bars into the two colours of the picture; what is of the other
// colour has no length. The axis begins at the bottom: the first comes last.
func series(drawn []barOf, length func(float64) float64) (names []string, ours, theirs plotter.Values) {
	for _, b := range slices.Backward(drawn) {
		mine, other := 0.0, length(b.value)
		if results.IsOurs(b.peer) {
			mine, other = other, mine
		}
		names, ours, theirs = append(names, label(b.peer)), append(ours, mine), append(theirs, other)
	}
	return names, ours, theirs
}

// chart draws horizontal bars as SVG, the first on top, ours in a colour of
// their own.
func chart(title string, drawn []barOf) ([]byte, error) {
	a := axisFor(drawn[0].value, drawn[len(drawn)-1].value)
	names, ours, theirs := series(drawn, a.length)
	p := plot.New()
	p.Title.Text, p.Title.TextStyle.Font, p.Title.Padding = title+a.kind, sans(12), 8
	p.NominalY(names...)
	p.X.Tick.Marker = a.ticks
	p.X.Tick.Label.Font, p.Y.Tick.Label.Font = sans(10), sans(10)
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = nil, color.Gray{Y: 228}
	p.Add(grid)
	for _, part := range []struct {
		values plotter.Values
		colour color.Color
	}{
		{ours, color.RGBA{R: 0x1b, G: 0x6c, B: 0xa8, A: 255}},
		{theirs, color.Gray{Y: 170}},
	} {
		b, err := plotter.NewBarChart(part.values, 14)
		if err != nil {
			return nil, err
		}
		b.Horizontal, b.Color, b.LineStyle.Width = true, part.colour, 0
		p.Add(b)
	}
	p.Add(figuresBeside(drawn, a))
	p.Y.Min, p.Y.Max = -0.6, float64(len(drawn))-0.4 // bars have half a width
	p.X.Min, p.X.Max = 0, a.end
	return render(p, vg.Length(80+22*len(drawn)))
}

// figuresBeside are the figures at the ends of the bars.
func figuresBeside(drawn []barOf, a axis) *plotter.Labels {
	var l plotter.Labels
	for i, b := range drawn {
		l.XYs = append(l.XYs, plotter.XY{X: a.length(b.value), Y: float64(len(drawn) - 1 - i)})
		l.Labels = append(l.Labels, number(b.value))
		l.TextStyle = append(l.TextStyle, text.Style{
			Color: color.Black, Font: sans(9), YAlign: text.YCenter, Handler: text.Plain{Fonts: font.DefaultCache},
		})
	}
	l.Offset.X = 4
	return &l
}

func render(p *plot.Plot, height vg.Length) ([]byte, error) {
	svg := vgsvg.New(640, height)
	dc := draw.New(svg)
	dc.SetColor(color.White)
	dc.Fill(dc.Rectangle.Path())
	p.Draw(draw.Crop(dc, 10, -20, 10, -10))
	var out bytes.Buffer
	if _, err := svg.WriteTo(&out); err != nil {
		return nil, err
	}
	// Readers have Arial, which is as wide.
	return bytes.ReplaceAll(out.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif")), nil
}

func sans(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}
