; The command processor loses its power.
; expect: structure: kernel 0 `k`: instruction 0 (`gate`): the command processor has no gate
object "gate-of-cp" target "mtia-300" hbm 1024 sram 0

origin o0 "/layer/Node" "Node"

kernel k0 "k" grid 1x1x1x1 {
  tensor r0 out bytes 256 planes 0 256 256
  buffer b0 "x" local 256 x 1
  view v0 f32 local k4 offset 0 (1:64, 1:64, 1:64, 1:64, 64:1)
  view v1 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  constant c0 0x0
  code:
    gate cp, on=false
    fill b0+:v0, c0
    st b0-:v0, v1
    halt
}

entry e0 "main" {
  output "y" f32 (64) hbm:0
  launch #0 k0 (hbm:0) o0
  code:
    launch #0
    halt
}

weights 0 {
}
